"""Clusters of this machine as their users meet them: long prompts, second turns, many streams.

    python3 tests/bench/cluster.py

Starts one node and, as another cluster, N nodes, and asks both in turns over HTTP. In a round
both are asked the same; in each round every prompt begins with words of its own, so that no start
is shared with an earlier one, but for the second turn, which is to share. Prints medians as a
table in markdown and, as the last line, everything as one JSON object.
"""

import argparse
import concurrent.futures
import json
import os
import random
import socket
import statistics
import subprocess
from pathlib import Path

import client

ROOT = Path(__file__).resolve().parent.parent.parent
# Each is one token after a blank.
WORDS = "the river runs over stones and under trees while birds sing near old green hills".split()
STREAMS = 8
# Hardly any answer to it ends early, which would leave fewer streams.
LONG = "Now write a very long story about all of that, with many chapters."


def parse():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cairn", type=Path, default=ROOT / "target" / "release" / "cairn")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="smollm2", help="as `cairn up --model` has it")
    return parser.parse_args()


def words(count, dice=random):
    """A text of about so many tokens that hardly any other text begins with."""
    return " ".join(dice.choices(WORDS, k=count))


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
        """One answer: its text, and after how many seconds each of its tokens came."""
        return client.ask(self.url, messages, tokens_max)[:2]

    def long_prompt(self, dice):
        """Seconds to the first token of a prompt of some 2,000 tokens."""
        return {"first_token_s": self.ask([user(words(1900, dice))], 1)[1][0]}

    def second_turn(self, dice):
        """Seconds to the first token of a turn that shares 1,500 tokens, over those of the first."""
        turn = [user(words(1450, dice))]
        text, cold = self.ask(turn, 16)
        turn += [{"role": "assistant", "content": text}, user("And then?")]
        return {"second_over_first": self.ask(turn, 16)[1][0] / cold[0]}

    def streams(self, count, dice=random):
        """Tokens per second of so many answers at once, all together: from the first prompt to
        the last token, and while all of them are answered."""
        prompts = [[user(f"{words(20, dice)}. {LONG}")] for _ in range(count)]
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            # All begin within a millisecond, so one clock does for all.
            asked = [pool.submit(self.ask, prompt, 96) for prompt in prompts]
            came = [answer.result()[1] for answer in asked]
        since, until = max(times[0] for times in came), min(times[-1] for times in came)
        decoded = sum(since < at <= until for times in came for at in times)
        return {
            f"tokens_per_second_of_{count}": sum(map(len, came)) / max(times[-1] for times in came),
            f"decoded_per_second_of_{count}": decoded / (until - since),
        }

    def figures(self, seed):
        """One round."""
        # As text: of numbers, Python takes the absolute value.
        dice = random.Random(str(seed))
        found = self.long_prompt(dice) | self.second_turn(dice)
        return found | self.streams(1, dice) | self.streams(STREAMS, dice)


def user(text):
    """A message."""
    return {"role": "user", "content": text}


def main():
    """Measures and prints."""
    args = parse()
    clusters = {n: Cluster(args.cairn, args.model, n, STREAMS) for n in (1, args.nodes)}
    try:
        for cluster in clusters.values():
            cluster.figures(-1)
        rounds = []
        for number in range(args.rounds):
            # Whoever comes first in a round may find a warmer machine, so they take turns.
            order = sorted(clusters, reverse=number % 2 == 1)
            rounds.append({count: clusters[count].figures(number) for count in order})
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
