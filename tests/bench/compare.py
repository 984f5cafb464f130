"""Cairn's engine beside llama.cpp: same machine, same file, same threads, in turns.

    python3 tests/bench/compare.py --model SmolLM2-135M-Instruct.Q4_1.gguf

Builds `cairn` (release), installs the newest llama-cpp-python from PyPI into an environment of its
own (built from source for this CPU), writes the model in other formats with llama.cpp's quantiser,
and then measures both in turns: prefill and decode for each format and thread count, and decode of
several streams. Prints a table in markdown and, as the last line, everything as one JSON object.

A round in which other programs took more than a tenth of a core is measured again, a few times; if
the machine does not get quiet it counts, and the share of such rounds is printed beside the ratio.
Needs Python 3.10, cargo, a C++ compiler and Linux. `docs/performance.md` says what came out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FORMATS = ["Q4_0", "Q5_0", "Q8_0", "Q4_K_M", "Q5_K_M", "Q6_K", "F16"]
FILE = "file"
"""The model as it was given."""
CONTEXT = 2048
"""Positions of a sequence, where memory is compared."""
NOISE_MAX = 0.1
"""Cores that other programs may take during a round that counts as quiet."""
PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = os.sysconf("SC_CLK_TCK")


def parse():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--formats", default=",".join([FILE, *FORMATS]))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--retries", type=int, default=4, help="for a round that was not quiet")
    parser.add_argument("--ubatch", default="512,128", help="of llama.cpp; the best one counts")
    parser.add_argument("--work", type=Path, default=ROOT / "target" / "compare")
    parser.add_argument("--ours", help="a command in place of `cairn bench engine`")
    parser.add_argument("--python", help="an interpreter that has llama_cpp, instead of installing it")
    return parser.parse_args()


def run(command, **more):
    """Runs a command that must succeed, its output on our stderr."""
    subprocess.run(command, check=True, stdout=sys.stderr, **more)


def build_ours():
    """The command that measures our engine."""
    run(["cargo", "build", "--release", "--locked", "-p", "cairn", "--bin", "cairn"], cwd=ROOT)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return [str(target / "release" / "cairn"), "bench", "engine"]


def install_rival(work):
    """The interpreter of an environment that has llama.cpp, built for this very CPU."""
    python = work / "venv" / "bin" / "python"
    if not python.exists():
        run([sys.executable, "-m", "venv", str(work / "venv")])
    flags = "-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_RPC=ON -DLLAVA_BUILD=OFF"
    install = ["-m", "pip", "install", "--no-binary", "llama-cpp-python", "llama-cpp-python"]
    run([str(python), *install], env=os.environ | {"CMAKE_ARGS": flags} | careful_compiler())
    return str(python)


def careful_compiler():
    """What keeps llama.cpp from ending at its first product on a CPU with AMX: GCC 12 believes that
    only the first eight bytes of a tile configuration are read, and drops what is stored in the rest
    of it."""
    if "amx_tile" not in Path("/proc/cpuinfo").read_text():
        return {}
    keep_stores = "-fno-tree-dse -fno-dse"
    return {name: f"{os.environ.get(name, '')} {keep_stores}".strip() for name in ("CFLAGS", "CXXFLAGS")}


def requantized(python, model, work, kind):
    """The model in another format, written by llama.cpp's own quantiser unless it is there."""
    into = work / f"{model.stem}.{kind}.gguf"
    if not into.exists():
        run([python, str(HERE / "rival.py"), "quantize", str(model), str(into), kind])
    return into


class Machine:
    """How busy the machine is with other programs."""

    def __init__(self):
        self.since = time.monotonic()
        self.busy = self.all_busy()

    @staticmethod
    def all_busy():
        """Seconds of all cores on any work, other guests' included."""
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        user, nice, system, _idle, _wait, irq, soft, steal = map(int, fields[:8])
        return (user + nice + system + irq + soft + steal) / TICK

    def others(self, own_seconds):
        """Cores that were busy since the start, `own_seconds` left out."""
        seconds = time.monotonic() - self.since
        return max(0.0, (self.all_busy() - self.busy - own_seconds) / seconds)


def measured(command):
    """One run: its last line, memory in bytes, and how busy the machine was otherwise."""
    machine = Machine()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    resident = []

    def watch():
        statm = Path(f"/proc/{process.pid}/statm")
        while True:
            try:
                resident.append(int(statm.read_text().split()[1]) * PAGE)
            except (OSError, IndexError):
                return
            time.sleep(0.05)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    output = process.stdout.read()
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    assert status == 0, (command, status)
    watcher.join()
    found = json.loads(output.decode().strip().rsplit("\n", 1)[-1])
    found["noise"] = machine.others(usage.ru_utime + usage.ru_stime)
    found["peak_bytes"] = usage.ru_maxrss * 1024
    # The last samples of a process that is ending are smaller.
    found["resident_bytes"] = int(statistics.median(resident[-10:-2] or [0]))
    return found


def quiet(command, retries):
    """`measured` until the machine was quiet, or the least noisy of all tries."""
    tries = []
    for _ in range(retries + 1):
        tries.append(measured(command))
        if tries[-1]["noise"] <= NOISE_MAX:
            break
    return min(tries, key=lambda found: found["noise"])


class Comparison:
    """All measurements, and who makes them."""

    def __init__(self, arguments, ours, python):
        self.arguments = arguments
        self.ours = ours
        self.python = python
        self.samples = {}

    def rival(self, model, threads, streams, prefill, ubatch):
        """llama.cpp's command for one case."""
        numbers = [threads, prefill, self.arguments.decode, streams, 1, ubatch]
        return [self.python, str(HERE / "rival.py"), "speed", str(model), *map(str, numbers)]

    def round(self, name, model, threads, streams):
        """Both sides once, one after the other."""
        arguments = self.arguments
        prefill = arguments.prefill if streams == 1 else 0
        own = {"threads": threads, "prefill": prefill, "decode": arguments.decode}
        own |= {"streams": streams, "rounds": 1}
        flags = [part for key, value in own.items() for part in (f"--{key}", str(value))]
        command = [*self.ours, "--model", str(model), *flags, "--json"]
        ours = quiet(command, arguments.retries)
        case = self.samples.setdefault((name, threads, streams), {"ours": [], "theirs": []})
        case["ours"].append(ours)
        for ubatch in arguments.ubatch.split(",") if prefill else ["512"]:
            theirs = quiet(self.rival(model, threads, streams, prefill, ubatch), arguments.retries)
            case["theirs"].append(theirs | {"ubatch": int(ubatch)})
        print(name, threads, streams, summary(case), file=sys.stderr, flush=True)

    def memory(self):
        """What each holds after a prompt that fills its context, and at most. Times nothing."""
        prompt = CONTEXT - 1
        flags = ["--threads", "1", "--prefill", str(prompt), "--decode", "0", "--rounds", "0"]
        own = [*self.ours, "--model", str(self.arguments.model), *flags, "--json"]
        numbers = map(str, [1, prompt, 0, 1, 0, 512])
        rival = [self.python, str(HERE / "rival.py"), "speed", str(self.arguments.model), *numbers]
        formats = {f"ours, {name}": [*own, "--cache", name] for name in ("f32", "f16", "i16")}
        sides = formats | {"llama.cpp, f16": rival}
        found = {side: measured(command) for side, command in sides.items()}
        keys = ("resident_bytes", "peak_bytes")
        return {side: {key: found[side][key] for key in keys} for side in found}


def summary(case):
    """Medians of one case. Of llama.cpp's batch settings the best median counts."""

    def ours(key):
        values = [found[key] for found in case["ours"] if found.get(key)]
        return statistics.median(values) if values else None

    def theirs(what):
        by_ubatch = {}
        for found in case["theirs"]:
            by_ubatch.setdefault(found["ubatch"], []).extend(found[what])
        return max((statistics.median(v) for v in by_ubatch.values() if v), default=None)

    samples = case["ours"] + case["theirs"]
    return {
        "prefill": [ours("prefill_tokens_per_second"), theirs("prefill")],
        "decode": [ours("decode_tokens_per_second"), theirs("decode")],
        "weight_bytes": ours("weight_bytes"),
        "read_bytes_per_second": ours("read_bytes_per_second"),
        "noisy": sum(found["noise"] > NOISE_MAX for found in samples) / len(samples),
    }


def ratio(ours, theirs):
    """A factor for people."""
    return f"{ours / theirs:.2f}×" if ours and theirs else "–"


def table(found):
    """The cases as markdown. The file's own format also stands beside llama.cpp's Q4_0."""
    heads = ["what", "threads", "ours", "llama.cpp", "ratio", "to its Q4_0", "of read", "noisy"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for (name, threads, streams), case in found.items():
        for what in ("prefill", "decode"):
            ours, theirs = case[what]
            if not ours or not theirs:
                continue
            best = found.get(("Q4_0", threads, streams), {}).get(what, [None, None])[1]
            share = ours / streams * case["weight_bytes"] / case["read_bytes_per_second"]
            label = f"{name}, {what}" + (f", {streams} streams" if streams > 1 else "")
            cells = [label, threads, f"{ours:.0f}", f"{theirs:.0f}", ratio(ours, theirs)]
            cells.append(ratio(ours, best) if name == FILE else "")
            cells.append(f"{share:.2f}" if what == "decode" else "")
            cells.append(f"{case['noisy']:.0%}")
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main():
    """Measures and prints."""
    arguments = parse()
    arguments.work.mkdir(parents=True, exist_ok=True)
    ours = arguments.ours.split() if arguments.ours else build_ours()
    python = arguments.python or install_rival(arguments.work)
    models = {}
    for name in arguments.formats.split(","):
        models[name] = arguments.model
        if name != FILE:
            models[name] = requantized(python, arguments.model, arguments.work, name)
    comparison = Comparison(arguments, ours, python)
    threads = [int(count) for count in arguments.threads.split(",")]
    for _ in range(arguments.rounds):
        for name, model in models.items():
            for count in threads:
                comparison.round(name, model, count, 1)
        if arguments.streams > 1:
            comparison.round(FILE, arguments.model, max(threads), arguments.streams)
            if "Q4_0" in models:
                comparison.round("Q4_0", models["Q4_0"], max(threads), arguments.streams)
    found = {key: summary(case) for key, case in comparison.samples.items()}
    print(table(found))
    memory = comparison.memory()
    for side, held in memory.items():
        print(f"memory, {side}: {held['resident_bytes'] >> 20} MiB, at most {held['peak_bytes'] >> 20}")
    rows = [
        {"format": name, "threads": count, "streams": streams} | case
        for (name, count, streams), case in found.items()
    ]
    print(json.dumps({"model": arguments.model.name, "cases": rows, "memory": memory}))


if __name__ == "__main__":
    main()
