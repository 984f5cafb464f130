"""One measurement of llama.cpp, and its quantiser, through the bindings of llama-cpp-python.

    rival.py speed MODEL THREADS PREFILL DECODE STREAMS ROUNDS UBATCH [ENDPOINT...]
    rival.py serve ENDPOINT THREADS
    rival.py quantize MODEL INTO TYPE

`speed` prints one JSON object; with endpoints, the layers are shared out evenly over the RPC
servers there, which `serve` runs until it is ended. As in llama.cpp's own bench, prefill and decode each start from an
empty cache, token ids are made up, nothing is sampled, and the first run is not counted. Flash
attention and the cache's type (f16) are llama.cpp's defaults. Run by `compare.py`, in the
environment that it makes.
"""

import ctypes
import json
import os
import sys
import time

import llama_cpp as lib

CONTEXT = 2048


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def silent(_level, _text, _data):
    """Keeps the library's log out of our output."""


def part(name):
    """A library of llama.cpp beside the one that the bindings have loaded."""
    folder = os.environ.get("LLAMA_CPP_LIB_PATH") or os.path.join(os.path.dirname(lib.__file__), "lib")
    return ctypes.CDLL(os.path.join(folder, f"lib{name}.so"), mode=ctypes.RTLD_GLOBAL)


def serve(endpoint, threads):
    """Computes for others on the CPU, for ever."""
    find = part("ggml").ggml_backend_dev_by_type
    find.restype = ctypes.c_void_p
    devices = (ctypes.c_void_p * 1)(find(0))
    assert devices[0], "no CPU"
    start = part("ggml-rpc").ggml_backend_rpc_start_server
    start.argtypes = [ctypes.c_char_p, ctypes.c_char_p, *[ctypes.c_size_t] * 2, ctypes.c_void_p]
    start(endpoint.encode(), None, int(threads), 1, devices)


def share_out(parameters, endpoints):
    """Puts every layer on one of the servers, as many on each."""
    connect = part("ggml-rpc").ggml_backend_rpc_add_server
    connect.restype = ctypes.c_void_p
    for endpoint in endpoints:
        server = connect(endpoint.encode())
        assert server, endpoint
        part("ggml").ggml_backend_register(ctypes.c_void_p(server))
    split = (ctypes.c_float * lib.llama_max_devices())(*[1.0] * len(endpoints))
    parameters.n_gpu_layers = 999
    parameters.tensor_split = split


def load(path, threads, streams, ubatch, endpoints):
    """A context over the whole model, on this CPU or on servers."""
    parameters = lib.llama_model_default_params()
    parameters.n_gpu_layers = 0
    if endpoints:
        share_out(parameters, endpoints)
    model = lib.llama_model_load_from_file(path.encode(), parameters)
    assert model, path
    parameters = lib.llama_context_default_params()
    parameters.n_ctx = CONTEXT * streams
    parameters.n_seq_max = streams
    parameters.n_batch = 2048
    parameters.n_ubatch = ubatch
    parameters.n_threads = threads
    parameters.n_threads_batch = threads
    context = lib.llama_init_from_model(model, parameters)
    assert context, path
    return model, context


def token(stream, position, vocabulary):
    """Some token, another for each stream and position."""
    mixed = (stream * 8191 + position + 1) * 0x9E37_79B9_7F4A_7C15 % 2**64
    return (mixed >> 33) % vocabulary


def tokens_per_second(model, context, count, each, streams):
    """`count` tokens per stream, `each` at a time, from an empty cache."""
    if count == 0:
        return None
    vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    lib.llama_memory_clear(lib.llama_get_memory(context), False)
    batch = lib.llama_batch_init(each * streams, 0, 1)
    since = time.perf_counter()
    for first in range(0, count, each):
        rows = min(each, count - first)
        batch.n_tokens = rows * streams
        for stream in range(streams):
            for row in range(rows):
                at = stream * rows + row
                batch.token[at] = token(stream, first + row, vocabulary)
                batch.pos[at] = first + row
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = stream
                batch.logits[at] = row == rows - 1
        assert lib.llama_decode(context, batch) == 0
        lib.llama_synchronize(context)
    seconds = time.perf_counter() - since
    lib.llama_batch_free(batch)
    return count * streams / seconds


def speed(path, numbers, endpoints):
    """Measures and prints."""
    threads, prefill, decode, streams, rounds, ubatch = map(int, numbers)
    model, context = load(path, threads, streams, ubatch, endpoints)
    found = {"prefill": [], "decode": []}
    for index in range(rounds + 1):
        once = {
            "prefill": tokens_per_second(model, context, prefill, prefill, streams),
            "decode": tokens_per_second(model, context, decode, 1, streams),
        }
        for what, value in once.items():
            if index > 0 and value:
                found[what].append(value)
    system = lib.llama_print_system_info().decode().strip()
    print(json.dumps({"system": system, **found}), flush=True)


def quantize(path, into, kind):
    """Writes `path` in another format; what is quantised already is unpacked first."""
    parameters = lib.llama_model_quantize_default_params()
    parameters.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{kind}")
    parameters.allow_requantize = True
    part = f"{into}.part"
    code = lib.llama_model_quantize(path.encode(), part.encode(), ctypes.byref(parameters))
    assert code == 0, (kind, code)
    os.replace(part, into)


def main():
    """Does what the arguments say."""
    lib.llama_log_set(silent, ctypes.c_void_p(0))
    lib.llama_backend_init()
    match sys.argv[1:]:
        case ["speed", path, *rest]:
            speed(path, rest[:6], rest[6:])
        case ["serve", endpoint, threads]:
            serve(endpoint, threads)
        case ["quantize", path, into, kind]:
            quantize(path, into, kind)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
