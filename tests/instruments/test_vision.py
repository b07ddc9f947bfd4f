"""Layers run one by one, with picture tokens left out: against the model's own pass and against each other."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from workbench.errors import InputError, ModelError
from workbench.instruments import vision
from workbench.models.hub import LoadedModel

WORDS = {"<pad>": 0, "<image>": 1, "what": 2, "colour": 3, "is": 4, "this": 5, "and": 6, "that": 7}


def tokenizer():
    words = Tokenizer(models.WordLevel(WORDS, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<pad>", pad_token="<pad>")


def tiny(text="llama", **more):
    """Return a LLaVA of random weights whose text model is of another class each time."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 8}
    config = {
        "llama": transformers.LlamaConfig,
        "qwen2": transformers.Qwen2Config,
        "glm": transformers.GlmConfig,
        "mistral": transformers.MistralConfig,
    }[text](**shape, num_key_value_heads=2, head_dim=8, initializer_range=0.3, pad_token_id=0, eos_token_id=0, **more)
    picture = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=16,
    )
    model = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(vision_config=picture, text_config=config, image_token_id=1, image_seq_length=16)
    ).eval()
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return LoadedModel(model.requires_grad_(False), tokenizer(), f"tiny-{text}", image_processor=processor)


@pytest.fixture(scope="module")
def reader():
    return vision.VisionReader(tiny())


def picture(seed=0, side=40):
    return np.random.default_rng(seed).random((side, side, 3), np.float32)


QUESTION = "what colour is this"


def top(count):
    """Return the rule that keeps the `count` tokens the text looks at most."""

    def rule(scores):
        order = scores.cross.masked_fill(~scores.alive, -1).argsort(dim=-1, descending=True, stable=True)
        keep = torch.zeros_like(scores.alive)
        return keep.scatter(1, order[:, :count], True)

    return rule


@pytest.mark.parametrize("text", ["llama", "qwen2", "glm", "mistral"])
def test_layers_one_by_one_are_the_models_own_pass(text):
    loaded = tiny(text)
    reader = vision.VisionReader(loaded)
    glance = reader.glance([picture(3)], [QUESTION])
    ours, state = reader.answer(glance)
    truth = loaded.model(input_ids=glance.ids, pixel_values=reader.pixels(picture(3)), use_cache=False).logits[:, -1]
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5)
    assert glance.grid == (4, 4)
    assert [int(k) for k in state.kept] == [16] * 4


@pytest.mark.parametrize("counts", [{1: 7}, {0: 12, 1: 6, 2: 3}, {1: 1}, {2: 0}])
def test_removing_is_masking(reader, counts):
    glance = reader.glance([picture(1)], [QUESTION])

    def rule(scores):
        return top(counts[scores.layer])(scores)

    removed, a = reader.answer(glance, rule, at=list(counts), mode="remove", own=True)
    masked, b = reader.answer(glance, rule, at=list(counts), mode="mask", own=True)
    torch.testing.assert_close(removed, masked, rtol=1e-5, atol=1e-5)
    assert [int(k) for k in a.kept] == [int(k) for k in b.kept]
    for one, other in zip(a.scores, b.scores, strict=True):
        torch.testing.assert_close(one.cross, other.cross, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.own, other.own, rtol=1e-4, atol=1e-6)
    assert a.hidden.shape[1] == min(counts.values()) + 4
    assert (a.where[1:] > a.where[:-1]).all()


def test_without_the_picture_the_text_goes_on_alone(reader):
    """All tokens leave after layer 1: the rest equals the later layers on the text's states, at their own places."""
    glance = reader.glance([picture(1)], [QUESTION])
    logits, _ = reader.answer(glance, top(0), at=[1], mode="remove")
    state = reader.advance(glance, reader.start(glance), 2)
    state.hidden, state.where = state.hidden[:, 16:], state.where[16:]
    torch.testing.assert_close(reader.finish(reader.advance(glance, state)), logits, rtol=1e-6, atol=1e-6)


def test_a_batch_with_different_kept_sets_is_the_single_runs(reader):
    glance = reader.glance([picture(1), picture(2)], [QUESTION, "this is that colour"])

    def rule(scores):
        return scores.cross > scores.cross.quantile(0.4 + 0.3 * scores.layer, dim=-1, keepdim=True) * 1.01

    both, state = reader.answer(glance, rule, at=[0, 1])
    for row, (seed, question) in enumerate(((1, QUESTION), (2, "this is that colour"))):
        alone, single = reader.answer(reader.glance([picture(seed)], [question]), rule, at=[0, 1], mode="remove")
        torch.testing.assert_close(both[row], alone[0], rtol=1e-5, atol=1e-5)
        assert [int(k[row]) for k in state.kept] == [int(k[0]) for k in single.kept]


def test_hidden_tokens_leave_no_gradient(reader):
    """Nobody but itself sees a masked token: the answer's gradient by its state is exactly zero."""
    glance = reader.glance([picture(1)], [QUESTION])
    state = reader.advance(glance, reader.start(glance), 1)
    state.alive = torch.zeros_like(state.alive)
    state.hidden = state.hidden.clone().requires_grad_(True)
    reader.finish(reader.advance(glance, state)).sum().backward()
    assert (state.hidden.grad[:, :16] == 0).all()
    assert (state.hidden.grad[:, 16:] != 0).any()


def test_soft_masks_at_zero_and_one_are_hard_ones(reader):
    glance = reader.glance([picture(1)], [QUESTION])

    def soft(scores):
        return top(5)(scores).float()

    torch.testing.assert_close(
        reader.answer(glance, soft, at=[1])[0], reader.answer(glance, top(5), at=[1])[0], rtol=1e-5, atol=1e-5
    )


def test_a_rule_inside_a_layer_lets_tokens_come_back(reader):
    glance = reader.glance([picture(1)], [QUESTION])
    _, state = reader.answer(glance, top(3), at=[1, 2], inside=True)
    assert [int(k) for k in state.kept] == [16, 3, 3, 16]
    assert bool(state.alive.all())


def test_the_column_mean_varies_where_the_row_mean_cannot(reader):
    glance = reader.glance([picture(1)], [QUESTION])
    _, state = reader.answer(glance, lambda scores: None, at=[0, 1, 2, 3], own=True)
    for scores in state.scores:
        assert float(scores.own.std()) > 1e-3 * float(scores.own.mean())
        total = scores.own.sum(-1)
        assert bool((total <= 1 + 1e-5).all())


@pytest.mark.parametrize(
    ("question", "says"),
    [("", "some words"), ("what shape is this", "shape")],
)
def test_questions_that_cannot_be_read(reader, question, says):
    with pytest.raises(InputError, match=says):
        reader.glance([picture()], [question])


def test_questions_of_a_batch_have_one_length(reader):
    with pytest.raises(InputError, match="same number of tokens"):
        reader.glance([picture(), picture()], [QUESTION, "what"])


def test_a_text_model_reads_no_pictures():
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=8
    )
    with pytest.raises(ModelError, match="reads text only"):
        vision.VisionReader(LoadedModel(transformers.LlamaForCausalLM(config), tokenizer(), "text"))


def encoded(size, kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, kind)
    return buffer.getvalue()


def test_uploads():
    assert vision.read_image(encoded((30, 20))).shape == (20, 30, 3)
    assert vision.read_image(encoded((30, 20), "JPEG")).dtype == np.float32
    for data, says in (
        (encoded((1, 1)), "2 x 2"),
        (b"hello", "PNG"),
        (encoded((5000, 5000)), "fewer than 20 megapixels"),
        (encoded((5000, 4000)), "fewer than 20 megapixels"),
        (encoded((9, 9))[:40], "PNG"),
        (b"", "PNG"),
    ):
        with pytest.raises(InputError, match=says):
            vision.read_image(data)


def saved(image, kind="PNG", **how):
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def test_uploads_look_as_in_any_viewer():
    grey = np.linspace(0, 65535, 12).astype(np.uint16).reshape(3, 4)
    deep = vision.read_image(saved(Image.fromarray(grey)))
    np.testing.assert_allclose(deep, np.repeat(grey[..., None] / 65535, 3, 2), atol=1e-6)
    lying = Image.new("RGB", (30, 20))
    lying.putpixel((0, 0), (255, 0, 0))
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright: a quarter turn clockwise
    upright = vision.read_image(saved(lying, exif=turned))
    assert upright.shape == (30, 20, 3)
    np.testing.assert_array_equal(upright[0, -1], [1, 0, 0])
    glass = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert vision.read_image(saved(glass)).min() == 1
