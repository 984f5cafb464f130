"""Two nodes with a core each beside llama.cpp with two of its RPC servers, in turns.

    python3 tests/bench/pair.py --model FILE

Both sides split the model in halves over two processes of this machine, each bound to a core of its
own, and talk over loopback. Cairn is asked over HTTP, as its users do; llama.cpp is driven from a
third process through its C interface, which favours it a little. llama.cpp is measured with the
file and with its Q4_0, each at the best of several micro-batches: at its default of 512 rows it
would not overlap the two servers at all. Prints medians as a table in markdown and, as the last
line, everything as one JSON object. Linux only.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import compare
from cluster import LONG, ROOT, Cluster, user, words

RIVAL = Path(__file__).with_name("rival.py")
CORES = [0, 1]
MANY = 16


def parse():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--cairn", type=Path, default=ROOT / "target" / "release" / "cairn")
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ubatch", default="32,64,128", help="of llama.cpp; the best one counts")
    parser.add_argument("--work", type=Path, default=ROOT / "target" / "compare")
    parser.add_argument("--python", help="an interpreter that has llama_cpp with RPC")
    return parser.parse_args()


def free_port():
    """A port of loopback that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Servers:
    """Two RPC servers of llama.cpp."""

    def __init__(self, python):
        self.python = python
        self.endpoints = [f"127.0.0.1:{free_port()}" for _ in CORES]
        self.servers = [
            subprocess.Popen(
                ["taskset", "-c", str(core), python, RIVAL, "serve", endpoint, "1"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for core, endpoint in zip(CORES, self.endpoints)
        ]
        for endpoint in self.endpoints:
            host, port = endpoint.split(":")
            until = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection((host, int(port))).close()
                    break
                except ConnectionRefusedError:
                    assert time.monotonic() < until, "a server of llama.cpp does not listen"
                    time.sleep(0.1)

    def speed(self, args, model, streams, ubatch):
        """Tokens per second of prefill and decode."""
        numbers = [1, 0 if streams > 1 else args.prefill, args.decode, streams, 1, ubatch]
        command = [self.python, RIVAL, "speed", model, *map(str, numbers), *self.endpoints]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        return {what: statistics.median(values) for what, values in found.items() if what in DID and values}

    def figures(self, args, models):
        """One round."""
        found = {}
        for name, model in models.items():
            for ubatch in map(int, args.ubatch.split(",")):
                for what, value in self.speed(args, model, 1, ubatch).items():
                    key = f"{name} {what}"
                    found[key] = max(found.get(key, 0), value)
            many = self.speed(args, model, 8, 64)
            found[f"{name} decode of 8"] = many["decode"]
        return found

    def end(self):
        """Ends the servers."""
        for server in self.servers:
            server.terminate()
            server.wait()


DID = ("prefill", "decode")


def ours(args, cluster):
    """One round of the two nodes."""
    _text, first = cluster.ask([user(words(args.prefill))], 1)
    _text, came = cluster.ask([user(f"{words(20)}. {LONG}")], args.decode)
    many = cluster.streams(MANY)
    return {
        "prefill": args.prefill / first[0],
        "decode": (len(came) - 1) / (came[-1] - came[0]),
        f"decode of {MANY}": many[f"decoded_per_second_of_{MANY}"],
        f"prompts and decode of {MANY}": many[f"tokens_per_second_of_{MANY}"],
    }


def main():
    """Measures and prints."""
    args = parse()
    args.work.mkdir(parents=True, exist_ok=True)
    python = args.python or compare.install_rival(args.work)
    q4_0 = compare.requantized(python, args.model, args.work, "Q4_0")
    models = {"file": args.model, "Q4_0": q4_0}
    bound = [["taskset", "-c", str(core)] for core in CORES]
    cluster = Cluster(args.cairn, args.model, len(CORES), MANY, bound, ["--threads", "1"])
    servers = Servers(python)
    rounds = []
    try:
        ours(args, cluster)
        for _ in range(args.rounds):
            rounds.append({"cairn": ours(args, cluster), "llama.cpp": servers.figures(args, models)})
    finally:
        servers.end()
        cluster.end()

    def median(side, figure):
        return statistics.median(measured[side][figure] for measured in rounds)

    print("| two nodes, a core each | Cairn | llama.cpp, same file | ratio | llama.cpp, Q4_0 | ratio |")
    print("|---|---|---|---|---|---|")
    for figure, theirs in (("prefill", "prefill"), ("decode", "decode"), (f"decode of {MANY}", "decode of 8")):
        row = [f"{figure}, tokens/s", f"{median('cairn', figure):.0f}"]
        for name in models:
            ratios = [m["cairn"][figure] / m["llama.cpp"][f"{name} {theirs}"] for m in rounds]
            row += [f"{median('llama.cpp', f'{name} {theirs}'):.0f}", f"{statistics.median(ratios):.2f}"]
        print("| " + " | ".join(row) + " |")
    with_prompts = median("cairn", f"prompts and decode of {MANY}")
    print(f"\nFrom {MANY} short prompts to their last tokens: {with_prompts:.0f} tokens/s.")
    print(json.dumps({"rounds": rounds}))


if __name__ == "__main__":
    main()
