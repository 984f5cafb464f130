"""Clusters of this machine as their users meet them: long prompts, second turns, many streams.

    python3 tests/bench/cluster.py

Starts one node and, as another cluster, N nodes, and asks both in turns over HTTP. Every prompt
begins with words of its own, so that no start is shared with an earlier one, but for the second
turn, which is to share. Prints medians as a table in markdown and, as the last line, everything as
one JSON object.
"""

import argparse
import concurrent.futures
import json
import os
import random
import socket
import statistics
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# Each is one token after a blank.
WORDS = "the river runs over stones and under trees while birds sing near old green hills".split()
STREAMS = 8


def parse():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cairn", type=Path, default=ROOT / "target" / "release" / "cairn")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="smollm2", help="as `cairn up --model` has it")
    return parser.parse_args()


def words(count):
    """A text of about so many tokens that no other text begins with."""
    return " ".join(random.choices(WORDS, k=count))


class Cluster:
    """Some nodes that are asked through the first."""

    def __init__(self, cairn, model, count, sequences, prefixes=None, flags=()):
        """`prefixes`: per node, a command that runs it, such as `taskset`."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [cairn, "up", "--ephemeral", "--json", "--model", model, *flags]
        command += ["--cluster", f"bench-{os.getpid()}-{count}", "--mdns-port", str(port)]
        command += ["--http", "127.0.0.1:0", "--listen", "127.0.0.1:0"]
        command += ["--strategy", "uniform", "--sequences", str(sequences)]
        environment = os.environ | {"CAIRN_SECRET": "a secret for benchmarks, well known"}
        self.nodes = [
            subprocess.Popen(
                [*(prefixes[number] if prefixes else []), *command, "--name", f"n{number}"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for number in range(count)
        ]
        for line in self.nodes[0].stdout:
            told = json.loads(line)
            if told["event"] == "ready" and len(told["stages"]) == count:
                self.url = told["http"]
                return
        raise SystemExit("the first node ended before it was ready")

    def end(self):
        """Closes what the nodes live on."""
        for node in self.nodes:
            node.stdin.close()
        for node in self.nodes:
            node.wait()

    def ask(self, messages, tokens_max):
        """One answer: its text, seconds to its first token, its tokens, and seconds in all."""
        body = {"messages": messages, "max_tokens": tokens_max, "temperature": 0}
        body |= {"stream": True, "logprobs": True}
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        text, first, count = "", None, 0
        begun = time.monotonic()
        with urllib.request.urlopen(request) as answer:
            for line in answer:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[len(b"data: ") :])
                assert "error" not in event, event
                if event["choices"] and event["choices"][0].get("logprobs"):
                    first = first or time.monotonic() - begun
                    count += 1
                    text += event["choices"][0]["delta"].get("content") or ""
        return text, first, count, time.monotonic() - begun

    def long_prompt(self):
        """Seconds to the first token of a prompt of some 2,000 tokens."""
        return {"first_token_s": self.ask([user(words(1900))], 1)[1]}

    def second_turn(self):
        """Seconds to the first token of a turn that shares 1,500 tokens, over those of the first."""
        turn = [user(words(1450))]
        text, cold, *_ = self.ask(turn, 16)
        turn += [{"role": "assistant", "content": text}, user("And then?")]
        return {"second_over_first": self.ask(turn, 16)[1] / cold}

    def streams(self, count):
        """Tokens per second of so many answers at once, all together."""
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            begun = time.monotonic()
            asked = [pool.submit(self.ask, [user(words(20))], 96) for _ in range(count)]
            tokens = sum(answer.result()[2] for answer in asked)
        return {f"tokens_per_second_of_{count}": tokens / (time.monotonic() - begun)}

    def figures(self):
        """One round."""
        return self.long_prompt() | self.second_turn() | self.streams(1) | self.streams(STREAMS)


def user(text):
    """A message."""
    return {"role": "user", "content": text}


def main():
    """Measures and prints."""
    args = parse()
    clusters = {n: Cluster(args.cairn, args.model, n, STREAMS) for n in (1, args.nodes)}
    try:
        for cluster in clusters.values():
            cluster.figures()
        rounds = []
        for number in range(args.rounds):
            # Whoever comes first in a round may find a warmer machine, so they take turns.
            order = sorted(clusters, reverse=number % 2 == 1)
            rounds.append({count: clusters[count].figures() for count in order})
    finally:
        for cluster in clusters.values():
            cluster.end()
    print(f"| figure | 1 node | {args.nodes} nodes | ratio, median | ratio, range |")
    print("|---|---|---|---|---|")
    for figure in rounds[0][1]:
        one, many = (
            [measured[count][figure] for measured in rounds] for count in (1, args.nodes)
        )
        ratios = [theirs / alone for theirs, alone in zip(many, one)]
        print(
            f"| {figure} | {statistics.median(one):.3g} | {statistics.median(many):.3g} "
            f"| {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
        )
    print(json.dumps({"nodes": args.nodes, "rounds": rounds}))


if __name__ == "__main__":
    main()
