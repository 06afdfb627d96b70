"""Training speed side by side, with one command: `python -m benchmarks.training` (`make bench`).

Ways to train (benchmarks/contenders) run in turn, a few steps each, round after round, on the same rows, encoder,
optimiser and threads: Trainer in float32 as it comes, and all in this project's number type. A ratio is taken within
a round, so that what else the machine does falls on all of them alike; the table has medians over rounds and the range.
With `--threads 1`, seconds are those of the process and not of the wall, and other work hardly matters. Tokens are real
ones, without padding. MFU is 6 x parameters outside the embeddings x tokens a second, over the GEMM peak of this
project's number type, measured in each round (core/speed).

Then the pass of K = 3 teachers (core/predict) against the same peak, and how this project's own cost grows with rows,
length, batch size and members. Everything goes into benchmarks/results: raw rounds (JSON), the table (Markdown), the
curves (SVG, benchmarks/curves).

    python -m benchmarks.training --quick               # does the benchmark itself work? no figures to quote
    python -m benchmarks.training --shapes L4/H256      # one shape
    python -m benchmarks.training --device cuda         # BERT-base and BERT-large, 16-bit
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import gmean

from benchmarks.contenders import PlainModel, Shape, clock, contenders_on, serve
from benchmarks.curves import draw_curves
from benchmarks.kept import RESULTS
from benchmarks.scaling import passes, scaling
from core.device import Device, resolve_device
from core.speed import TRAINING_FLOPS, gemm_peak, matrix_parameters

CPU_SHAPES = {
    "L2/H128": Shape(2, 128, 2, steps=48),
    "L4/H256": Shape(4, 256, 4, steps=36),
    "L4/H512": Shape(4, 512, 8, steps=24),
    "L6/H384": Shape(6, 384, 6, steps=24),
    "BERT-base": Shape(12, 768, 12, steps=6, alone=True),
}
CUDA_SHAPES = {"BERT-base": Shape(12, 768, 12, steps=60), "BERT-large": Shape(24, 1024, 16, steps=30)}
QUICK_SHAPES = {"L1/H32": Shape(1, 32, 2, steps=3)}
LABELS = {
    "trainer": "Trainer, default (float32)",
    "trainer_same": "Trainer, 16 bits",
    "trainer_grouped": "Trainer, grouped by length",
    "reference": "plain loop, one task a batch, padded",
    "darkroom": "Darkroom",
    "darkroom_compiled": "Darkroom, runtime.compile",
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="auto (by the rule of core/device), float32 or bfloat16")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each contender")
    parser.add_argument("--batch-size", type=int, default=32, help="rows a batch; a GPU is full at 1024 and more")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=16_384, help="rows in all, with GLUE's shares")
    parser.add_argument("--shapes", nargs="+", help="names of shapes, all of the device's when left out")
    parser.add_argument("--quick", action="store_true", help="one tiny shape, two rounds")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    shapes = QUICK_SHAPES if options.quick else CUDA_SHAPES if options.device.startswith("cuda") else CPU_SHAPES
    if unknown := set(options.shapes or ()) - set(shapes):
        parser.error(f"no shape {', '.join(sorted(unknown))}; there are {', '.join(shapes)}")
    rows, rounds = (512, 2) if options.quick else (options.rows, options.rounds)
    torch.set_num_threads(options.threads)
    about = machine(options.device, options.threads) | {"batch_size": options.batch_size}
    found: dict[str, Any] = {"machine": about, "shapes": {}}
    options.out.mkdir(parents=True, exist_ok=True)
    stem = f"training-{options.device.partition(':')[0]}" + ("-quick" if options.quick else "")

    def write() -> None:
        (options.out / f"{stem}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (options.out / f"{stem}.md").write_text(table(found) + "\n", encoding="utf-8")

    names = list(options.shapes or shapes)
    for name in names:
        device = resolve_device(options.device, options.dtype, hidden=shapes[name].hidden)
        found["shapes"][name] = compare(shapes[name], device, rows, rounds, options.threads, options.batch_size)
        write()  # what is measured is kept, whatever comes
        print(f"{name}:\n{table({**found, 'shapes': {name: found['shapes'][name]}})}\n", flush=True)
    smallest = shapes[names[0]]
    found["passes"] = passes({name: shapes[name] for name in names}, options.device, rows)
    found["scaling"] = scaling(smallest, resolve_device(options.device, options.dtype, hidden=smallest.hidden), rows)
    write()
    (options.out / f"{stem}.svg").write_text(draw_curves(found["scaling"]), encoding="utf-8")
    print(table(found))
    return found


def machine(device: str, threads: int) -> dict[str, Any]:
    about = {"device": device, "threads": threads, "torch": torch.__version__, "python": platform.python_version()}
    if device.startswith("cuda"):
        about["gpu"] = torch.cuda.get_device_name()
    else:
        about["cpu"] = torch.backends.cpu.get_cpu_capability()
        about["bfloat16"] = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return about


def compare(shape: Shape, device: Device, n_rows: int, rounds: int, threads: int, batch_size: int) -> dict[str, Any]:
    """All contenders in turn, `rounds` times. They stay alive from round to round, and a round before them warms up and
    does not count; of a shape that is `alone`, each is started for its turn and warms up by itself."""
    context = multiprocessing.get_context("spawn")
    names = contenders_on(device)
    with tempfile.TemporaryDirectory() as folder:

        def start(contender: str) -> tuple[Any, Any]:
            pipe, theirs = context.Pipe()
            process = context.Process(
                target=serve, args=(theirs, contender, shape, n_rows, device, threads, batch_size, folder), daemon=True
            )
            process.start()
            theirs.close()  # so that a contender that dies is an end of file here, and not a wait for ever
            assert pipe.recv() == "ready"
            return pipe, process

        def stop(pipe: Any, process: Any) -> None:
            pipe.send(None)
            process.join()

        alive = {} if shape.alone else {contender: start(contender) for contender in names}
        for contender in alive:
            _steps(alive[contender][0], max(2, shape.steps // 4))
        measured = []
        for _ in range(rounds):
            of_round: dict[str, Any] = {"gemm_flops": _fresh_peak(device)}
            for contender in names:
                pipe, process = alive[contender] if alive else start(contender)
                if shape.alone:
                    _steps(pipe, 1)
                of_round[contender] = _steps(pipe, shape.steps)
                if shape.alone:
                    stop(pipe, process)
            measured.append(of_round)
        for pipe, process in alive.values():
            stop(pipe, process)
    n_parameters = matrix_parameters(PlainModel(shape).encoder)
    return {"dtype": str(device.dtype).removeprefix("torch."), "parameters": n_parameters, "rounds": measured}


def _steps(pipe: Any, n: int) -> dict[str, float]:
    pipe.send(n)
    return dict(zip(("tokens", "seconds", "peak_memory"), pipe.recv(), strict=True))


def _fresh_peak(device: Device) -> float:
    gemm_peak.cache_clear()
    return gemm_peak(device.device, device.dtype, clock)


def summary(of_shape: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of each contender: median tokens a second, ratio to Trainer's default with its range, MFU, peak memory."""
    rounds, found = of_shape["rounds"], {}
    # The best of all rounds: what else the machine did can only lower it.
    peak = max(of_round["gemm_flops"] for of_round in rounds)
    for contender in [name for name in LABELS if name in rounds[0]]:
        speeds = np.array([r[contender]["tokens"] / r[contender]["seconds"] for r in rounds])
        ratios = speeds / np.array([r["trainer"]["tokens"] / r["trainer"]["seconds"] for r in rounds])
        found[contender] = {
            "tokens_per_second": float(np.median(speeds)),
            "ratio": float(np.median(ratios)),
            "ratio_low": float(ratios.min()),
            "ratio_high": float(ratios.max()),
            "mfu": float(TRAINING_FLOPS * of_shape["parameters"] * np.median(speeds) / peak),
            "peak_memory": max(r[contender]["peak_memory"] for r in rounds),
        }
    return found


def table(found: dict[str, Any]) -> str:
    """Markdown: a row a contender, a cell a shape."""
    summaries = {name: summary(of_shape) for name, of_shape in found["shapes"].items()}
    n_rounds = len(next(iter(found["shapes"].values()))["rounds"])
    about = found["machine"]
    unit = "CPU seconds" if about["threads"] == 1 and "gpu" not in about else "seconds"
    lines = [
        f"Batch {about.get('batch_size', 32)}, threads: {about['threads']}, {about.get('gpu', about.get('cpu'))}, "
        f"torch {about['torch']}; medians of {n_rounds} interleaved rounds, {unit}. Ratio of real tokens a second to "
        "Trainer's default (range over rounds), MFU of the peak in the column's number type, peak memory.",
        "",
        "| | " + " | ".join(f"{name} {found['shapes'][name]['dtype']}" for name in summaries) + " |",
        "|---" * (len(summaries) + 1) + "|",
    ]
    for contender in LABELS:
        cells = [_cell(of_shape.get(contender)) for of_shape in summaries.values()]
        if set(cells) != {"-"}:
            lines.append(f"| {LABELS[contender]} | " + " | ".join(cells) + " |")
    speeds = [f"{s['darkroom']['tokens_per_second']:,.0f}" for s in summaries.values()]
    lines.append("| Darkroom, real tokens a second | " + " | ".join(speeds) + " |")
    mean = {c: gmean([s[c]["ratio"] for s in summaries.values()]) for c in ("darkroom", "trainer_grouped")}
    # Where all run in float32, Trainer's default is Trainer in the same number type.
    same = [s["darkroom"]["ratio"] / s.get("trainer_same", s["trainer"])["ratio"] for s in summaries.values()]
    lines += [
        "",
        f"Geometric mean over the shapes: {mean['darkroom']:.2f} x Trainer's default, {gmean(same):.2f} x "
        f"Trainer in the same number type, {mean['darkroom'] / mean['trainer_grouped']:.2f} x Trainer grouped.",
    ]
    for name, of_pass in found.get("passes", {}).items():
        lines.append(
            f"Pass of {of_pass['members']} teachers at {name}: {of_pass['tokens_per_second']:,.0f} tokens a second and "
            f"member, {of_pass['gemm_share']:.2f} of the GEMM peak."
        )
    return "\n".join(lines)


def _cell(of_contender: dict[str, float] | None) -> str:
    if of_contender is None:
        return "-"
    return (
        f"**{of_contender['ratio']:.2f}** ({of_contender['ratio_low']:.2f} to {of_contender['ratio_high']:.2f}), "
        f"{of_contender['mfu']:.2f}, {of_contender['peak_memory'] / 2**30:.1f} GiB"
    )


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.0f} seconds")
