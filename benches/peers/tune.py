"""Fine-tunes with Timbre and with PEFT on the same file and texts, one process after the other, and records what each took.

    tune.py --model M.gguf [--steps 92] [--out benches/results/tune/smollm2-devil.json]

Needs the packages that peft_tune.py names. Both take the same number of examples in batches of 4, each in an order of its own, and
score the same held-out texts; the defaults of `timbre tune`, PEFT with the settings found best for this data (peft_tune.py).
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
DATA = os.path.join(ROOT, "benches", "data")


def timbre(args, data, heldout, method, activations="int15"):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "adapter")
        command = [args.timbre, "tune", "--model", args.model, "--data", data, "--heldout", heldout, "--out", out, "--json"]
        command += ["--method", method, "--steps", str(args.steps), "--batch", "4", "--max-length", "160", "--seed", "2024"]
        command += ["--evaluations", "0", "-t", str(args.t), "--activations", activations]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        rows = [json.loads(line) for line in run.stdout.splitlines()]
        steps = [row for row in rows if "ms" in row]
        done = rows[-1]
        size = os.path.getsize(os.path.join(out, "adapter_model.safetensors"))
    return {
        "trainable": done["parameters"],
        "adapter_bytes": size,
        "step_ms": statistics.median(row["ms"] for row in steps),
        "tokens_per_step": statistics.mean(row["tokens"] for row in steps),
        "peak_bytes": done["peak_anon_bytes"],
        "heldout_before": done["heldout_before"],
        "heldout_after": done["heldout_after"],
    }


def peft(args, data, heldout, method):
    command = [sys.executable, os.path.join(HERE, "peft_tune.py"), "--model", args.model, "--data", data, "--heldout", heldout]
    command += ["--method", {"fourier": "fourierft", "lora": "lora"}[method], "--steps", str(args.steps), "-t", str(args.t)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    row = json.loads(run.stdout.splitlines()[-1])
    row["peak_bytes"] = row.pop("peak_rss_bytes")
    return {key: row[key] for key in row if key not in ("method", "steps")}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--timbre", default=os.path.join(ROOT, "target", "release", "timbre"))
    parser.add_argument("--data", default="devil.jsonl", help="devil.jsonl or kjv.txt")
    parser.add_argument("--steps", type=int, default=92)
    parser.add_argument("-t", type=int, default=2)
    parser.add_argument("--out", default=None)
    parser.add_argument("--only", help="measure one contender anew (\"timbre, lora\"), the others stay as --out has them")
    args = parser.parse_args()
    name, kind = os.path.splitext(args.data)
    data, heldout = (os.path.join(DATA, f"{name}.{part}{kind}") for part in ("train", "heldout"))
    with open("/proc/cpuinfo", encoding="ascii") as file:
        cpu = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    result = {"cpu": cpu, "threads": args.t, "model": os.path.basename(args.model), "data": args.data, "steps": args.steps}
    runs = result["runs"] = {}
    if args.only:
        with open(args.out, encoding="utf-8") as file:
            runs.update(json.load(file)["runs"])
    contenders = {"timbre": timbre, "timbre int8": functools.partial(timbre, activations="int8"), "peft": peft}
    for method in ("fourier", "lora"):
        for who, run in contenders.items():
            if args.only not in (None, f"{who}, {method}"):
                continue
            row = runs[f"{who}, {method}"] = run(args, data, heldout, method)
            print(f"{who}, {method}: {json.dumps(row)}", file=sys.stderr)
    text = json.dumps(result, indent=2)
    if args.out:
        os.makedirs(os.path.dirname(args.out), exist_ok=True)
        with open(args.out, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    print(text)


main()
