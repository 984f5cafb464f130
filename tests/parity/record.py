"""Records what llama.cpp says about a model file, for the `parity` test to compare with.

    python -m venv venv
    venv/bin/pip install numpy==2.4.6 typing-extensions diskcache jinja2
    LLAMA_CPP_LIB_PATH=lib LD_LIBRARY_PATH=lib PYTHONPATH=package venv/bin/python tests/parity/record.py \\
        SmolLM2-135M-Instruct.Q4_1.gguf tests/parity/fixtures

`package` holds `llama_cpp` of the source package llama-cpp-python 0.3.36 from PyPI, and `lib` the
libraries that its own CMake build made: Release, CPU only, GGML_NATIVE=ON. Only libllama and the
ggml libraries were built; installing the whole package should serve as well, but was not tried.

`prompts.json` says when, with which versions and on which CPU, and `docs/parity.md` describes the
layout of `text.bin`.

The cache of keys and values is f32, so that llama.cpp's usual rounding of it to f16 is not
taken for an error of the engine. `--kv f16` and `--full FILE` are for measuring: they
select the rounded cache, and keep the whole matrix of log-probabilities of the text's scored positions.
Knows nothing about Cairn: token ids come from llama.cpp's own tokenizer.
"""

import argparse
import datetime
import hashlib
import json
import platform
import struct
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

GREEDY_TOKENS = 48
TOP = 96
TOKENS = 4100
STRIDE = 3
GGML_TYPES = {"f32": 0, "f16": 1}

# Chosen before any result was seen. A list of messages goes through the model's chat template.
PROMPTS = {
    "fact": [{"role": "user", "content": "What is the capital of France?"}],
    "list": [{"role": "user", "content": "Name three primary colors."}],
    "system": [
        {"role": "system", "content": "You are a pirate. Answer in one short sentence."},
        {"role": "user", "content": "Where did you hide the treasure?"},
    ],
    "turns": [
        {"role": "user", "content": "My name is Ada and I keep bees."},
        {"role": "assistant", "content": "Nice to meet you, Ada! How many hives do you have?"},
        {"role": "user", "content": "Seven. What is my name, and what do I keep?"},
    ],
    "explain": [{"role": "user", "content": "Explain in two sentences why the sky is blue."}],
    "sum": [{"role": "user", "content": "I have 17 apples and give away 5, then buy 12. How many?"}],
    "python": [{"role": "user", "content": "Write a Python function that reverses a string."}],
    "french": [{"role": "user", "content": "Traduis en anglais : « Le chat dort sur le lit. »"}],
    "email": [{"role": "user", "content": "Write a polite email to my landlord about a leaking tap."}],
    "poem": [{"role": "user", "content": "Write a haiku about the sea in winter."}],
    "one word": "The",
    "story": "Once upon a time, in a village at the foot of a mountain, there lived",
    "rust": "fn fibonacci(n: u32) -> u64 {\n    match n {\n        0 => 0,\n        1 => 1,\n",
    "json": '{"name": "Skarholm", "kind": "island", "population": 412, "ferries": [',
    "counting": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,",
    "primes": "The first ten prime numbers are 2, 3, 5, 7, 11,",
    "german": "Der Bahnhof liegt am Rand der Stadt, und wer zu Fuß geht,",
    "russian": "Москва — столица",
    "chinese": "北京是中国的首都,",
    "long": """Meeting of the allotment society, 4 March.

Present: eleven members and the treasurer. The minutes of the last meeting were read and, after a
discussion about the word "weeds", accepted.

1. Water. The pump at the north gate has failed again. A new one costs 340 euros, a repair 120, and
nobody believes in the repair. Decided: a new pump, nine votes to two.
2. Paths. Plot 14 has grown across the path to plot 15. The holder of plot 14 says that the pumpkin
did it and that it cannot be reasoned with. Decided: the pumpkin may stay until October.
3. Bees. A member asks whether she may keep two hives by the hedge. There was a long silence, and then
everybody spoke at once. Decided: two hives for one year, with a sign.
4. Money. There are 1,212 euros in the account. After the pump there will be 872. The fee stays at 45
euros. The treasurer wishes it to be noted that this is the fifth year of it staying there.
5. The fox. It has been seen on the roof of the shed, asleep, on three mornings. Nobody moved that
anything be done.

Summary of the decisions:
1.""",
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    arguments.add_argument("model", type=Path)
    arguments.add_argument("fixtures", type=Path, help="holds text.txt, receives the rest")
    arguments.add_argument("--kv", choices=GGML_TYPES, default="f32")
    arguments.add_argument("--full", type=Path, help="write only this: f32 (scored positions, vocabulary)")
    arguments = arguments.parse_args()

    kv = GGML_TYPES[arguments.kv]
    model = llama_cpp.Llama(
        str(arguments.model),
        n_ctx=4352,
        n_batch=512,
        type_k=kv,
        type_v=kv,
        flash_attn=False,
        logits_all=True,
        n_gpu_layers=0,
        verbose=False,
    )
    text = (arguments.fixtures / "text.txt").read_text(encoding="utf-8")
    ids = model.tokenize(text.encode(), add_bos=False, special=False)
    assert len(ids) > TOKENS, len(ids)
    ids = ids[: TOKENS + 1]

    if arguments.full:
        score(model, ids[:-1]).astype("<f4").tofile(arguments.full)
        return
    record_text(model, ids, arguments.fixtures / "text.bin")
    record_prompts(model, arguments.model, arguments.fixtures / "prompts.json")


def log_probabilities(logits):
    """(rows, vocabulary), normalised in f64."""
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def evaluate(model, ids, stride=1):
    """Appends `ids` to the context; log-probabilities after the first and every stride-th."""
    first = model.n_tokens
    model.eval(ids)
    return log_probabilities(model.scores[first : first + len(ids) : stride])


def score(model, ids):
    """Log-probabilities after every STRIDE-th token of one text from an empty context."""
    model.reset()
    return evaluate(model, ids, STRIDE)


def record_text(model, ids, path):
    rows = score(model, ids[:-1])
    with path.open("wb") as out:
        out.write(b"CAIRNKL2")
        out.write(struct.pack("<III", len(ids) - 1, STRIDE, TOP))
        out.write(np.array(ids, dtype="<u2").tobytes())
        for row, following in zip(rows, ids[1::STRIDE]):
            order = np.argsort(-row, kind="stable")
            out.write(struct.pack("<ff", row[following], np.exp(row[order[TOP:]]).sum()))
            out.write(order[:TOP].astype("<u2").tobytes())
            out.write(row[order[:TOP]].astype("<f2").tobytes())


def record_prompts(model, model_path, path):
    template = Jinja2ChatFormatter(
        template=model.metadata["tokenizer.chat_template"],
        bos_token=token_text(model, model.token_bos()),
        eos_token=token_text(model, model.token_eos()),
        add_generation_prompt=True,
    )
    prompts = []
    for name, source in PROMPTS.items():
        chat = isinstance(source, list)
        text = template(messages=source).prompt if chat else source
        ids = model.tokenize(text.encode(), add_bos=False, special=chat)
        prompt = {"name": name, "messages": source if chat else None, "text": text, "ids": ids}
        prompts.append(prompt | greedy(model, ids))
    sha256 = hashlib.sha256(model_path.read_bytes()).hexdigest()
    document = {
        "made": {
            "date": datetime.date.today().isoformat(),
            "by": f"llama-cpp-python {llama_cpp.__version__}, f32 cache, no flash attention",
            "system": llama_cpp.llama_print_system_info().decode().strip(),
            "python": f"{platform.python_version()}, numpy {np.__version__}",
            "cpu": cpu(),
        },
        "model_sha256": sha256,
        "prompts": prompts,
    }
    lines = json.dumps(document, ensure_ascii=False, indent=1)
    path.write_text(lines + "\n", encoding="utf-8")


def greedy(model, ids):
    """The most probable continuation, past any end token, one token at a time."""
    model.reset()
    steps = []
    fresh = ids
    for _ in range(GREEDY_TOKENS):
        row = evaluate(model, fresh)[-1]
        best, second = (int(token) for token in np.argsort(-row, kind="stable")[:2])
        steps.append((best, round(row[best], 5), second, round(row[second], 5)))
        fresh = [best]
    tokens, best_log, seconds, second_log = zip(*steps)
    return {
        "tokens": tokens,
        "logprobs": best_log,
        "second_tokens": seconds,
        "second_logprobs": second_log,
    }


def token_text(model, token):
    return model.detokenize([token], special=True).decode()


def cpu():
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
