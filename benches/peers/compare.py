"""Timbre beside llama.cpp and candle on the same file, machine and threads, taking turns; medians and ratios.

    just bench-peers                                             both models, then the chart
    python benches/peers/compare.py --model M.gguf --out benches/results/NAME.json [--adapter DIR] [-r 5] [--sections speed,memory]

Needs llama-cpp-python for the Python that runs it, `cargo build --release -p timbre-cli` and
`cargo build --release -p timbre-benches --examples`. Nothing is built for this CPU alone but llama.cpp; candle's fast kernels
need `-C target-cpu` at compile time and are therefore not what is measured.

Each repetition starts every contender of every section in a fresh process, one after the other, so that a machine whose speed
drifts drifts for all of them. The sections:

    threads 2    as many threads as phones have fast cores; Timbre with no adapter, with one on q and v, with one on all
                 seven linear kinds of every layer (n = 1000), and with activations as coarse as llama.cpp's; candle once
    threads 1    the same on one thread, without candle
    neighbour    two threads while another process burns one core
    memory       a prompt as long as the context (--ctx, 2048 tokens), so that every page of the KV cache has been written, with
                 keys and values in f16 and in q8_0; candle, once, keeps them in f32

Anonymous memory is the kernel's (`smaps_rollup`), llama.cpp's without what its Python process had before. Load is from nothing to
a model and a context that can run, with the file in the page cache. Linux only.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILT = ROOT / "target/release"
SECTIONS = ["threads 2", "threads 1", "neighbour", "memory"]
# Measured in the first repetition only: a repetition takes minutes, and candle is far from the others.
ONCE = {"candle"}
# No measurement takes this long; a neighbour that outlives its measurement ends by itself.
TIMEOUT_S = 600
BURN = f"import time\nend = time.monotonic() + {TIMEOUT_S}\nwhile time.monotonic() < end: pass"


def run(command, **environment):
    command = [str(part) for part in command]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S, env={**os.environ, **environment}
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def neighbour(burning):
    """Another process that burns one core meanwhile."""
    if not burning:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", BURN]) as burner:
        try:
            yield
        finally:
            burner.kill()


def timbre(model, p, g, t, adapter=None, kv="f16", activations="int15"):
    command = [BUILT / "timbre", "bench", "--model", model, "-p", p, "-g", g, "-t", t, "-r", 1, "--kv", kv, "--json"]
    command += ["--backend", "cpu", "--activations", activations]
    if adapter:
        command += ["--adapter", adapter]
    out = run(command)
    result = {
        "load_ms": out["load_ms"],
        "pp_tps": out["pp"]["tps_median"],
        "tg_tps": out["tg"]["tps_median"],
        "anon_bytes": out["memory"]["anon_bytes"],
        "peak_anon_bytes": out["memory"]["peak_anon_bytes"],
    }
    if adapter:
        result |= {key: out[key] for key in ("adapter_load_us", "swap_us")}
    return result


def llama(model, p, g, t, kv="f16"):
    return run([sys.executable, HERE / "llama_cpp_once.py", "--model", model, "-p", p, "-g", g, "-t", t, "--kv", kv])


def candle(model, p, g, t):
    threads = {"RAYON_NUM_THREADS": str(t), "CANDLE_NUM_THREADS": str(t)}
    return run([BUILT / "examples/candle_once", "--model", model, "-p", p, "-g", g], **threads)


def random_adapter(model, modules):
    """A PEFT directory of random coefficients for these linears of the model."""
    out = ROOT / "target/adapters" / f"{model.stem}-{modules.replace(',', '-')}"
    if not (out / "adapter_config.json").is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        command = [BUILT / "examples/random_adapter", "--model", model, "--out", out, "--modules", modules]
        subprocess.run([str(part) for part in command], check=True)
    return out


def contenders(args):
    """What each section measures: name and a call. The first of a section is what the others are compared with."""
    qv = args.adapter or random_adapter(args.model, "q,v")
    every = random_adapter(args.model, "q,k,v,o,gate,up,down")
    short, long = (args.model, args.p, args.g), (args.model, args.ctx, args.memory_g)

    def speed(t):
        return {
            "llama.cpp": lambda: llama(*short, t),
            "timbre": lambda: timbre(*short, t),
            "timbre + adapter": lambda: timbre(*short, t, qv),
            "timbre + adapter on all": lambda: timbre(*short, t, every),
            "timbre int8 + adapter": lambda: timbre(*short, t, qv, activations="int8"),
        }

    memory = {"llama.cpp": lambda: llama(*long, 2), "llama.cpp q8_0": lambda: llama(*long, 2, "q8_0")}
    memory |= {"candle": lambda: candle(*long, 2)}
    memory |= {"timbre": lambda: timbre(*long, 2), "timbre + adapter": lambda: timbre(*long, 2, qv)}
    memory |= {"timbre q8_0": lambda: timbre(*long, 2, kv="q8_0")}
    both = {"llama.cpp": lambda: llama(*short, 2), "timbre": lambda: timbre(*short, 2)}
    both |= {"timbre + adapter": lambda: timbre(*short, 2, qv)}
    sections = {"threads 2": speed(2) | {"candle": lambda: candle(*short, 2)}, "threads 1": speed(1), "neighbour": both, "memory": memory}
    if args.without_candle:
        for section in sections.values():
            section.pop("candle", None)
    return {name: section for name, section in sections.items() if name in args.sections}


def settings(args, name):
    p, g = (args.ctx, args.memory_g) if name == "memory" else (args.p, args.g)
    threads = 1 if name == "threads 1" else 2
    return {"p": p, "g": g, "t": threads, "ctx": max(p, g + 1), "neighbour": name == "neighbour"}


def medians(rows):
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def show(name, section):
    base = next(iter(section["medians"].values()))
    values = ", ".join(f"{key} {value}" for key, value in section["settings"].items())
    print(f"\n{name} ({values})\n{'':26}{'prefill tok/s':>16}{'decode tok/s':>16}{'load ms':>10}{'anonymous MB':>14}")
    for contender, m in section["medians"].items():
        line = f"{contender:26}{m['pp_tps']:>8.0f} {m['pp_tps'] / base['pp_tps']:>5.2f} x"
        line += f"{m['tg_tps']:>8.1f} {m['tg_tps'] / base['tg_tps']:>5.2f} x{m['load_ms']:>10.0f}{m['anon_bytes'] / 1e6:>14.1f}"
        if "swap_us" in m:
            line += f"   adapter: load {m['adapter_load_us'] / 1e3:.2f} ms, swap {m['swap_us']:.2f} µs"
        print(line)


def processor():
    for line in open("/proc/cpuinfo", encoding="utf-8"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def sections_of(text):
    names = text.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(SECTIONS)}")
    return names


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--adapter", type=pathlib.Path, help="of q and v; without it, one of random coefficients")
    parser.add_argument("-p", type=int, default=512, help="prompt tokens")
    parser.add_argument("-g", type=int, default=128, help="tokens generated")
    parser.add_argument("-r", type=int, default=5, help="repetitions")
    parser.add_argument("--ctx", type=int, default=2048, help="prompt and context of the memory section")
    parser.add_argument("--memory-g", type=int, default=32, help="tokens generated there, in a new sequence")
    parser.add_argument("--sections", type=sections_of, default=SECTIONS, help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--without-candle", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()

    calls = contenders(args)
    runs = {name: {contender: [] for contender in section} for name, section in calls.items()}
    for repetition in range(args.r):
        for name, section in calls.items():
            for contender, measure in section.items():
                if repetition > 0 and contender in ONCE:
                    continue
                print(f"{repetition + 1}/{args.r} {name}: {contender}", file=sys.stderr, flush=True)
                with neighbour(name == "neighbour"):
                    runs[name][contender].append(measure())
    sections = {
        name: {
            "settings": settings(args, name),
            "medians": {contender: medians(rows) for contender, rows in section.items()},
            "runs": section,
        }
        for name, section in runs.items()
    }
    for name, section in sections.items():
        show(name, section)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "model": args.model.name,
            "adapter": args.adapter.name if args.adapter else "random coefficients on q and v",
            "cpu": processor(),
            "cores": os.cpu_count(),
            "repetitions": args.r,
            "sections": sections,
        }
        args.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
