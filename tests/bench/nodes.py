"""One answer through several nodes of this machine beside one node, in turns.

    python3 tests/bench/nodes.py

Runs `cairn demo --json` with 1 and with N nodes after each other, so that both meet the same
machine, and prints the median of the ratios: what the hops cost while a token goes through all
stages. Prints a table in markdown and, as the last line, everything as one JSON object.
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FIGURES = ["tokens_per_second", "ttft_ms"]


def parse():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cairn", type=Path, default=ROOT / "target" / "release" / "cairn")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--model", help="as `cairn up --model` has it")
    return parser.parse_args()


def demo(args, nodes):
    """What a demo of so many nodes measured."""
    command = [args.cairn, "demo", "--json", "--temperature", "0", "--nodes", str(nodes)]
    command += ["--max-tokens", str(args.max_tokens)]
    command += ["--model", args.model] if args.model else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told["stages"]) == nodes, told["stages"]
    return {figure: told[figure] for figure in FIGURES}


def main():
    """Measures and prints."""
    args = parse()
    rounds = []
    for number in range(args.rounds):
        # Whoever comes first in a round may find a warmer machine, so they take turns.
        order = [1, args.nodes] if number % 2 == 0 else [args.nodes, 1]
        rounds.append({nodes: demo(args, nodes) for nodes in order})
    print(f"| figure | 1 node | {args.nodes} nodes | ratio, median | ratio, range |")
    print("|---|---|---|---|---|")
    result = {"nodes": args.nodes, "rounds": rounds}
    for figure in FIGURES:
        ratios = [measured[args.nodes][figure] / measured[1][figure] for measured in rounds]
        one, many = (
            statistics.median(measured[nodes][figure] for measured in rounds)
            for nodes in (1, args.nodes)
        )
        result[f"{figure}_ratio"] = statistics.median(ratios)
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"| {figure} | {one:.1f} | {many:.1f} | {statistics.median(ratios):.2f} | {spread} |")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
