"""Timbre beside llama.cpp on the same file, machine and threads, taking turns; medians and ratios.

    pip install llama-cpp-python
    python benches/peers/compare.py --model M.gguf --adapter assets/adapters/devil -r 5 --out benches/results/NAME.json

Each repetition starts every contender in a fresh process, one after the other, so that a machine whose speed drifts
drifts for all of them. Timbre runs with the adapter active where one is given, and without; llama.cpp runs without.
Anonymous memory is the kernel's (`smaps_rollup`), llama.cpp's without what its Python process had before.
"""

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def timbre(args, adapter):
    command = [args.timbre, "bench", "--model", args.model, "-p", args.p, "-g", args.g, "-t", args.t, "-r", 1, "--json"]
    if adapter:
        command += ["--adapter", adapter]
    if args.ctx:
        command += ["--ctx", args.ctx]
    out = run([str(part) for part in command])
    return {
        "load_ms": out["load_ms"],
        "pp_tps": out["pp"]["tps_median"],
        "tg_tps": out["tg"]["tps_median"],
        "anon_bytes": out["memory"]["anon_bytes"],
    }


def llama(args):
    command = [sys.executable, HERE / "llama_cpp_once.py", "--model", args.model, "-p", args.p, "-g", args.g, "-t", args.t]
    if args.ctx:
        command += ["--ctx", args.ctx]
    return run([str(part) for part in command])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter")
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-g", type=int, default=128)
    parser.add_argument("-t", type=int, default=2)
    parser.add_argument("-r", type=int, default=5)
    parser.add_argument("--ctx", type=int)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--timbre", default=str(ROOT / "target/release/timbre"))
    args = parser.parse_args()

    contenders = {"llama.cpp": lambda: llama(args), "timbre": lambda: timbre(args, None)}
    if args.adapter:
        contenders["timbre + adapter"] = lambda: timbre(args, args.adapter)
    runs = {name: [] for name in contenders}
    for _ in range(args.r):
        for name, measure in contenders.items():
            runs[name].append(measure())

    keys = ["pp_tps", "tg_tps", "load_ms", "anon_bytes"]
    medians = {name: {key: statistics.median(r[key] for r in rows) for key in keys} for name, rows in runs.items()}
    base = medians["llama.cpp"]
    print(f"{'':18}{'prefill tok/s':>16}{'decode tok/s':>16}{'load ms':>12}{'anonymous MB':>16}")
    for name, m in medians.items():
        print(
            f"{name:18}{m['pp_tps']:>8.0f} {m['pp_tps'] / base['pp_tps']:>5.2f} x{m['tg_tps']:>8.1f}"
            f" {m['tg_tps'] / base['tg_tps']:>5.2f} x{m['load_ms']:>12.0f}{m['anon_bytes'] / 1e6:>16.1f}"
        )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        settings = {key: getattr(args, key) for key in ("p", "g", "t", "r", "ctx")}
        record = {
            "model": pathlib.Path(args.model).name,
            "adapter": args.adapter,
            "cpu": platform.processor() or platform.machine(),
            **settings,
            "medians": medians,
            "runs": runs,
        }
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
