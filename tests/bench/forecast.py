"""Forecasts beside what is measured: time to first token and tokens per second.

    python3 tests/bench/forecast.py --cairn target/release/cairn

Starts clusters of this machine one after the other, equal ones and, with `--unequal`, some whose
nodes have fewer threads, less memory or, as root, less of the processors' time. With
`--delay`, as root too, each node is a host of its own, and frames between them take that long.
Reads what the plan in force says it will cost, then asks with prompts of just the length that it
speaks of.
Prints a table in markdown and, as the last line, everything as one JSON object. `--round-trip`
puts another time in place of the round trips that the plan assumes, for plans that do not measure
them.
"""

import argparse
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import client
from delay import Hosts, inside

ROOT = Path(__file__).resolve().parent.parent.parent
# Each is one token after a blank.
WORDS = "the river runs over stones and under trees while birds sing near old green hills".split()
GROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
PAUSE_S = 0.6
# Threads of each node, and cores' worth of time and memory where they are limited.
EQUAL = [[(None, None, None)] * count for count in (1, 2, 3, 4)]
UNEQUAL = [
    [(1, None, None)],
    [(2, None, None), (1, None, None)],
    [(2, None, None), (1, None, None), (1, None, None)],
    [(2, 0.5, None)],
    [(2, None, None), (2, 0.5, None)],
    [(2, None, None), (1, 0.5, None), (1, 0.25, None)],
    [(2, None, None), (2, None, "200 MiB")],
    [(2, 0.25, None)],
    [(2, 0.75, None)],
    [(1, 0.25, None)],
]


def parse():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cairn", type=Path, default=ROOT / "target" / "release" / "cairn")
    parser.add_argument("--model", default="smollm2", help="as `cairn up --model` has it")
    parser.add_argument("--strategy", default="uniform", help="as `cairn up --strategy` has it")
    parser.add_argument("--clusters", type=int, default=3, help="of each kind, in turns")
    parser.add_argument("--requests", type=int, default=3, help="to each of them")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--unequal", action="store_true", help="unequal nodes instead of equal")
    parser.add_argument("--delay", type=float, help="milliseconds one way between two nodes")
    parser.add_argument("--cases", help="only these, by place from 0, as in 0,3")
    parser.add_argument(
        "--others",
        type=float,
        default=0.08,
        help="answers during which other programs took more of the cores' time do not count",
    )
    parser.add_argument("--round-trip", type=float, help="milliseconds between two nodes")
    return parser.parse_args()


def free_port():
    """A UDP port that nobody listens to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def group(cores):
    """A control group of so many cores' time; yields its list of processes."""
    if cores is None:
        yield None
        return
    old = (GROUPS / "cpu" / "cpu.cfs_quota_us").exists()
    path = (GROUPS / "cpu" if old else GROUPS) / f"cairn-bench-{os.getpid()}-{random.random()}"
    path.mkdir()
    try:
        quota = int(cores * PERIOD_US)
        if old:
            (path / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (path / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (path / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        yield path / "cgroup.procs"
    finally:
        path.rmdir()


class Cluster:
    """Nodes of one machine, asked through the first."""

    def __init__(self, args, nodes, stack):
        command = [args.cairn, "up", "--ephemeral", "--json", "--model", args.model]
        command += ["--cluster", f"forecast-{os.getpid()}-{time.monotonic_ns()}"]
        command += ["--mdns-port", str(free_port()), "--strategy", args.strategy]
        command += ["--http", "127.0.0.1:0"]
        command += [] if args.delay else ["--listen", "127.0.0.1:0"]
        environment = os.environ | {"CAIRN_SECRET": "a secret for benchmarks, well known"}
        if Path(args.model).is_file():
            # Nothing measured earlier is there, so a forecast is as old as its cluster.
            cache = stack.enter_context(tempfile.TemporaryDirectory())
            environment |= {"CAIRN_CACHE": cache}
        self.nodes = []
        hosts = args.delay and Hosts(len(nodes), args.delay, stack).names
        for number, (threads, cores, memory) in enumerate(nodes):
            processes = stack.enter_context(group(cores))
            mine = [*command, "--name", f"n{number}"]
            mine += ["--threads", str(threads)] if threads else []
            mine += ["--memory", memory] if memory else []
            log = stack.enter_context(tempfile.TemporaryFile("w+"))
            if hosts:
                mine = ["ip", "netns", "exec", hosts[number], *mine]
                mine += ["--listen", f"10.77.0.{number + 1}:0"]
            node = subprocess.Popen(
                ["sh", "-c", f'{joined(processes)}exec "$@"', "sh", *mine],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            self.nodes.append(node)
            stack.callback(end, node)
        if hosts:
            stack.enter_context(inside(hosts[0]))
        for line in self.nodes[0].stdout:
            told = json.loads(line)
            if told["event"] == "ready":
                self.url = told["http"]
                if len(self.plan()["stages"]) == len(nodes) or args.strategy != "uniform":
                    return
        raise SystemExit("the first node ended before it was ready")

    def plan(self):
        """The plan in force."""
        with urllib.request.urlopen(f"{self.url}/cairn/status") as answer:
            return json.load(answer)["plan"]

    def ask(self, words, tokens_max):
        """Seconds to the first token and to the last, tokens, and tokens of the prompt."""
        text = " ".join(random.choices(WORDS, k=words))
        message = {"role": "user", "content": text}
        _, came, prompt = client.ask(self.url, [message], tokens_max)
        return came[0], came[-1], len(came), prompt


class Quiet:
    """How much of the cores' time other programs took since it was made."""

    def __init__(self, nodes):
        self.pids = [node.pid for node in nodes]
        self.begun = self.times()

    def times(self):
        """Ticks that all programs ran, that the nodes ran, and that passed."""
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        user, nice, system, idle, wait, *interrupts = map(int, fields)
        busy = user + nice + system + sum(interrupts)
        own = 0
        for pid in self.pids:
            mine = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            own += int(mine[11]) + int(mine[12])
        return busy, own, busy + idle + wait

    def others(self):
        """Their share."""
        busy, own, passed = (now - old for now, old in zip(self.times(), self.begun))
        return max(0, busy - own) / max(1, passed)


def joined(processes):
    """Shell words that put the shell into a control group."""
    return f"echo $$ > {processes} && " if processes else ""


def end(node):
    """Closes what a node lives on."""
    node.stdin.close()
    node.wait()


def corrected(forecast, stages, round_trip):
    """The forecast with another round trip on every wire; what crosses them takes no time then."""
    per_token, first = 1e3 / forecast["tokens_per_second"], forecast["ttft_ms"]
    if round_trip is not None and stages > 1:
        change = round_trip * stages / 2 - forecast["hops_ms"]
        per_token, first = per_token + change, first + change
    return {"tokens_per_second": 1e3 / per_token, "ttft_ms": first}


def measure(args, nodes):
    """One cluster: what was said and what was seen."""
    with contextlib.ExitStack() as stack:
        cluster = Cluster(args, nodes, stack)
        plan = cluster.plan()
        wanted = plan["forecast"]["ttft_prompt_tokens"]
        # What the chat template adds, and a warm cluster.
        around = cluster.ask(16, 8)[3] - 16
        cluster.ask(wanted - around, args.max_tokens)
        seen, disturbed = [], 0
        while len(seen) < args.requests and disturbed < 4 * args.requests:
            # A forecast is for an idle cluster.
            time.sleep(PAUSE_S)
            quiet = Quiet(cluster.nodes)
            answer = cluster.ask(wanted - around, args.max_tokens)
            if quiet.others() <= args.others:
                seen.append(answer)
            else:
                disturbed += 1
        if not seen:
            raise SystemExit("other programs are too busy; see --others")
    speeds = [(count - 1) / (last - first) for first, last, count, _ in seen if count > 8]
    firsts = [first * 1e3 for first, _, _, _ in seen]
    assert all(abs(prompt - wanted) <= 4 for *_, prompt in seen), seen
    return {
        "disturbed": disturbed,
        "layers": [stage["layers"] for stage in plan["stages"]],
        "stage_ms": [stage["decode_ms"] for stage in plan["stages"]],
        "told": plan["forecast"],
        "forecast": corrected(plan["forecast"], len(plan["stages"]), args.round_trip),
        "measured": {"tokens_per_second": speeds, "ttft_ms": firsts},
    }


def described(nodes):
    """Nodes in few words."""
    words = []
    for threads, cores, memory in nodes:
        word = "all threads" if threads is None else f"{threads} thread{'s' * (threads > 1)}"
        word += "" if cores is None else f" of {cores} cores"
        words.append(word if memory is None else f"{word}, {memory}")
    return f"{len(nodes)} x {words[0]}" if len(set(words)) == 1 else "; ".join(words)


def main():
    """Measures and prints."""
    args = parse()
    cases = UNEQUAL if args.unequal else EQUAL
    if args.cases:
        cases = [cases[int(place)] for place in args.cases.split(",")]
    rounds = []
    for _ in range(args.clusters):
        rounds.append([measure(args, nodes) for nodes in cases])
    print("| nodes | figure | forecast | measured | range | error |")
    print("|---|---|--:|--:|--:|--:|")
    for nodes, clusters in zip(cases, zip(*rounds)):
        for figure, unit in (("tokens_per_second", "tokens/s"), ("ttft_ms", "ms to first token")):
            said = [cluster["forecast"][figure] for cluster in clusters]
            saw = [statistics.median(cluster["measured"][figure]) for cluster in clusters]
            every = [one for cluster in clusters for one in cluster["measured"][figure]]
            # Of one cluster: a machine's speed moves between two of them.
            error = statistics.median(100 * (one / other - 1) for one, other in zip(said, saw))
            print(
                f"| {described(nodes)} | {unit} | {statistics.median(said):.1f} "
                f"| {statistics.median(saw):.1f} | {min(every):.1f} to {max(every):.1f} "
                f"| {error:+.0f} % |"
            )
    print(json.dumps([{"nodes": nodes, "rounds": all_} for nodes, all_ in zip(cases, zip(*rounds))]))


if __name__ == "__main__":
    main()
