"""Fine-tuning with PEFT, measured in a process of its own and printed as one JSON object.

Needs `pip install torch transformers peft gguf`; the base is the GGUF file, decoded to f32 by transformers. The examples are those that
`timbre tune` makes of the same file: a prompt through the chat template, loss on the completion only, closing token and
newline included; or, of plain text, windows of tokens.

    peft_tune.py --model M.gguf --data F.{jsonl,txt} --heldout H.{jsonl,txt} --method fourierft|lora [--steps N] [--batch 4]
    peft_tune.py --model M.gguf --heldout H.{jsonl,txt} --adapter DIR          only scores an adapter
"""

import argparse
import json
import math
import os
import random
import resource
import statistics
import tempfile
import time

import torch
from peft import FourierFTConfig, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


def examples(path, tokenizer, max_length):
    """Token ids and the position from which on they count in the loss."""
    if not path.endswith(".jsonl"):
        with open(path, encoding="utf-8") as file:
            ids = tokenizer(file.read(), add_special_tokens=False)["input_ids"]
        windows = [ids[at : at + max_length] for at in range(0, len(ids), max_length)]
        return [(window, 1) for window in windows if len(window) > 1]
    out = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            chat = [{"role": "user", "content": row["prompt"]}]
            prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            chat.append({"role": "assistant", "content": row["completion"]})
            whole = tokenizer.apply_chat_template(chat, tokenize=False)
            start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
            ids = tokenizer(whole, add_special_tokens=False)["input_ids"][:max_length]
            if len(ids) > start:
                out.append((ids, start))
    return out


def batch_loss(model, batch):
    """Sum of the losses over the targets, and how many there are."""
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros(len(batch), longest, dtype=torch.long)
    labels = torch.full((len(batch), longest), -100)
    for row, (tokens, start) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        labels[row, start : len(tokens)] = torch.tensor(tokens[start:])
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    labels = labels[:, 1:]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
    return loss, int((labels != -100).sum())


def heldout_loss(model, rows, batch):
    total, count = 0.0, 0
    with torch.no_grad():
        for at in range(0, len(rows), batch):
            loss, targets = batch_loss(model, rows[at : at + batch])
            total, count = total + loss.item(), count + targets
    return total / count


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data")
    parser.add_argument("--heldout", required=True)
    parser.add_argument("--adapter", help="a PEFT directory to score instead of training one")
    parser.add_argument("--method", choices=["fourierft", "lora"], default="fourierft")
    parser.add_argument("--steps", type=int, default=92)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=160)
    parser.add_argument("--lr", type=float, default=None, help="default 3e-2, for LoRA 1e-3")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--alpha", type=float, default=300.0)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("-t", type=int, default=2)
    parser.add_argument("--no-heldout", action="store_true", help="only time the steps")
    args = parser.parse_args()

    torch.set_num_threads(args.t)
    torch.manual_seed(args.seed)
    folder, name = os.path.split(os.path.abspath(args.model))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    base = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    if args.adapter:
        held = examples(args.heldout, tokenizer, args.max_length)
        model = PeftModel.from_pretrained(base, args.adapter)
        print(json.dumps({"adapter": args.adapter, "heldout": heldout_loss(model, held, args.batch)}))
        return
    targets = ["q_proj", "v_proj"]
    if args.method == "fourierft":
        config = FourierFTConfig(
            n_frequency=args.n, scaling=args.alpha, random_loc_seed=args.seed, target_modules=targets,
            init_weights=True, task_type="CAUSAL_LM",
        )
    else:
        config = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    lr = args.lr or (3e-2 if args.method == "fourierft" else 1e-3)
    optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * min(step / args.steps, 1.0)))
    )

    train = examples(args.data, tokenizer, args.max_length)
    held = examples(args.heldout, tokenizer, args.max_length)
    order = random.Random(args.seed)
    out = {"method": args.method, "trainable": sum(p.numel() for p in trained)}
    if not args.no_heldout:
        out["heldout_before"] = heldout_loss(model, held, args.batch)
    queue, times, tokens = [], [], 0
    for _ in range(args.steps):
        if len(queue) < args.batch:
            queue = order.sample(train, len(train))
        batch, queue = queue[: args.batch], queue[args.batch :]
        begin = time.perf_counter()
        loss, count = batch_loss(model, batch)
        (loss / count).backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        times.append(time.perf_counter() - begin)
        tokens += sum(len(ids) for ids, _ in batch)
    out.update(steps=args.steps, step_ms=statistics.median(times) * 1e3, tokens_per_step=tokens / args.steps)
    if not args.no_heldout:
        out["heldout_after"] = heldout_loss(model, held, args.batch)
    out["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        out["adapter_bytes"] = os.path.getsize(os.path.join(folder, "adapter_model.safetensors"))
    print(json.dumps(out))


main()
