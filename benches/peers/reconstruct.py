"""A dense change from its sparse spectrum: Timbre beside `torch.fft.ifft2(dense).real`, taking turns.

    pip install torch
    cargo build --release -p timbre-benches --bin reconstruct
    python benches/peers/reconstruct.py --side 4096 --entries 1000 -r 9 --out benches/results/dense/reconstruct.json

Both stay in their process and run once each, in turn, so that a machine whose speed drifts drifts for both; the first
turn warms up and is not counted. torch is timed twice: the transform and its real part alone, on a spectrum that is
there, which is what the ratio counts, and with the dense spectrum built first, as PEFT does. Timbre's time is everything from
the coefficients to the matrix in fresh memory.
"""

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def timed(work):
    start = time.perf_counter()
    out = work()
    return 1e3 * (time.perf_counter() - start), out


def rounds(args, threads):
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(2024)
    at = torch.randperm(args.side * args.side, generator=generator)[: args.entries]
    rows, cols = at // args.side, at % args.side
    coefficients = torch.randn(args.entries)

    def build():
        dense = torch.zeros(args.side, args.side)
        dense[rows, cols] = coefficients
        return dense

    dense = build()
    transform = lambda spectrum: torch.fft.ifft2(spectrum).real * 300.0  # noqa: E731
    command = [str(args.binary), str(args.side), str(args.entries), str(threads)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ours():
        child.stdin.write("\n")
        child.stdin.flush()
        return float(child.stdout.readline())

    times = {"timbre_ms": [], "torch_ifft2_ms": [], "torch_with_spectrum_ms": []}
    for turn in range(args.r + 1):
        found = {
            "timbre_ms": ours(),
            "torch_ifft2_ms": timed(lambda: transform(dense))[0],
            "torch_with_spectrum_ms": timed(lambda: transform(build()))[0],
        }
        if turn:
            for name, ms in found.items():
                times[name].append(ms)
    child.stdin.close()
    child.wait()
    medians = {name: statistics.median(ms) for name, ms in times.items()}
    best = {name: min(ms) for name, ms in times.items()}
    ratio = lambda of: of["torch_ifft2_ms"] / of["timbre_ms"]  # noqa: E731
    return {"threads": threads, "median": medians, "best": best, "ratio_of_medians": ratio(medians), "ratio_of_best": ratio(best)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--entries", type=int, default=1000)
    parser.add_argument("-r", type=int, default=9, help="counted turns")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/reconstruct")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    report = {
        "side": args.side,
        "entries": args.entries,
        "turns": args.r,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "runs": [rounds(args, threads) for threads in args.threads],
    }
    text = json.dumps(report, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
