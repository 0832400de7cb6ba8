"""One measurement of llama.cpp in a process of its own, printed as one JSON object.

Uses the C interface through llama-cpp-python (`pip install llama-cpp-python`), with no adapter:

    llama_cpp_once.py --model M.gguf -p 512 -g 128 -t 2 [--ctx N] [--kv f16|q8_0]
"""

import argparse
import ctypes
import json
import time

import llama_cpp as ll


def anonymous_bytes():
    for line in open("/proc/self/smaps_rollup", encoding="ascii"):
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no Anonymous line")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-g", type=int, default=128)
    parser.add_argument("-t", type=int, default=2)
    parser.add_argument("--ctx", type=int, default=None)
    parser.add_argument("--kv", choices=["f16", "q8_0"], default="f16")
    args = parser.parse_args()

    quiet = ll.llama_log_callback(lambda *_: None)  # kept alive: the library calls it until the end
    ll.llama_log_set(quiet, ctypes.c_void_p(0))
    ll.llama_backend_init()
    before = anonymous_bytes()
    begin = time.perf_counter()
    model = ll.llama_model_load_from_file(args.model.encode(), ll.llama_model_default_params())
    params = ll.llama_context_default_params()
    params.n_ctx = args.ctx or max(args.p, args.g + 1)
    params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = args.t
    if args.kv == "q8_0":
        params.type_k = params.type_v = ll.GGML_TYPE_Q8_0
        params.flash_attn_type = ll.LLAMA_FLASH_ATTN_TYPE_ENABLED  # quantised values need it
    context = ll.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError("llama.cpp made no context")
    load_ms = (time.perf_counter() - begin) * 1e3
    vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
    tokens = [((i + 1) * 0x9E3779B97F4A7C15 % 2**64 >> 16) % vocab for i in range(args.p)]

    def decode(ids):
        array = (ll.llama_token * len(ids))(*ids)
        if ll.llama_decode(context, ll.llama_batch_get_one(array, len(ids))):
            raise RuntimeError("llama_decode failed")
        ll.llama_get_logits_ith(context, -1)

    def prefill():
        ll.llama_memory_clear(ll.llama_get_memory(context), True)
        begin = time.perf_counter()
        for start in range(0, args.p, 512):
            decode(tokens[start : start + 512])
        return args.p / (time.perf_counter() - begin)

    def generate():
        ll.llama_memory_clear(ll.llama_get_memory(context), True)
        decode(tokens[:1])
        begin = time.perf_counter()
        for i in range(args.g):
            decode([tokens[(i + 1) % len(tokens)]])
        return args.g / (time.perf_counter() - begin)

    prefill(), generate()  # warm-up
    result = {"load_ms": load_ms, "pp_tps": prefill(), "tg_tps": generate()}
    result["anon_bytes"] = anonymous_bytes() - before
    print(json.dumps(result))


if __name__ == "__main__":
    main()
