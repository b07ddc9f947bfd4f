"""The scene reader, its exam, and both pruning papers on it: exact identities, honest replay, bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.data import digit_scenes as scenes
from workbench.errors import InputError, ModelError, WorkbenchError
from workbench.instruments.vision import Scores
from workbench.systems.attention import g_search, pictures, schedules
from workbench.systems.attention import pictures_report as report

SMALL = {"held_out": 40, "compare": False}


@pytest.fixture(scope="module")
def reader():
    return pictures.open_reader("scene-reader")


@pytest.fixture(scope="module")
def exam(reader):
    return pictures.exam(reader, 100, 9)


@pytest.fixture(scope="module")
def searched():
    return wb.run("g_search", method="p-sigmoid", trials=2, calibration=40, budget=0.3, **SMALL)


@pytest.fixture(scope="module")
def pruned():
    return wb.run("atp_llava", budget=0.35, **SMALL)


# ---- scenes ----------------------------------------------------------------------------------------------------------


def test_scenes_answer_their_questions():
    for found, question in scenes.examples(3, 200):
        assert question.answer in scenes.VOCABULARY
        assert len({t.name for t in found.things}) == len(found.things)
        if question.kind == "count":
            assert question.answer == str(sum(t.colour == question.words.split()[2] for t in found.things))
        if question.kind == "name":
            assert [t.name for t in found.coloured(question.words.split()[2])] == [question.answer]
        if question.kind == "left":
            a, b = (next(t for t in found.things if t.name == w) for w in question.words.split()[::2])
            assert question.answer == ("yes" if a.column * 8 + 4 * a.size < b.column * 8 + 4 * b.size else "no")


def test_things_do_not_straddle_patches_or_meet():
    for seed in range(50):
        taken = [p for t in scenes.scene(np.random.default_rng(seed)).things for p in t.patches]
        assert len(taken) == len(set(taken))
        assert all(0 <= p < 64 for p in taken)


def test_held_out_glyphs_are_in_no_training_scene():
    train, test = scenes.glyphs(False), scenes.glyphs(True)
    for name in scenes.NAMES:
        assert len(test[name])
        assert not {g.tobytes() for g in train[name]} & {g.tobytes() for g in test[name]}
    assert sum(len(v) for n, v in test.items() if n in scenes.DIGITS) == 360


def test_the_same_seed_is_the_same_picture():
    a, b = (scenes.scene(np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(a.image, b.image)
    assert a.things == b.things


# ---- the reader ------------------------------------------------------------------------------------------------------


def test_lookups_are_solved_and_a_blind_reader_guesses(reader):
    big = pictures.exam(reader, 400, 11)
    right = pictures.sit(reader, big).right
    for kind in ("colour", "name", "place", "left"):
        assert right[big.kinds == kind].mean() >= 0.9, kind
    grey = reader.embed(torch.zeros(1, 3, 64, 64).expand(400, -1, -1, -1), big.glance.ids[:, 64:].tolist())
    blind = pictures.sit(reader, pictures.Exam(grey, big.answers, big.kinds, big.asked))
    assert blind.accuracy < 0.36


def test_all_tokens_is_the_model_itself(reader, exam):
    rule, at = pictures.scheduled([64] * 8)
    assert at == []
    plain, ours = reader.answer(exam.glance)[0], reader.answer(exam.glance, rule, at=range(8))[0]
    torch.testing.assert_close(plain, ours, rtol=1e-5, atol=1e-5)


def test_a_schedule_keeps_what_it_says_and_nothing_returns(reader, exam):
    counts = [64, 40, 17, 17, 5, 1, 0, 0]
    rule, _at = pictures.scheduled(counts)
    alive = []

    def watched(scores):
        alive.append(scores.alive)
        return rule(scores)

    found = pictures.sit(reader, exam, watched, at=range(8))
    np.testing.assert_array_equal(found.kept, np.repeat(np.array(counts, float)[:, None], 100, 1))
    assert all(bool((b <= a).all()) for a, b in itertools.pairwise(alive))
    with pytest.raises(InputError, match="never grow"):
        pictures.scheduled([64, 10, 11])


def test_equal_scores_are_settled_by_place():
    alive = torch.tensor([[True, False, True, True]])
    assert pictures.best(torch.ones(1, 4), alive, 2).tolist() == [[True, False, True, False]]


def test_tau_of_one_keeps_everything_that_is_looked_at():
    cross = torch.tensor([[0.5, 0.0, 0.3, 0.2]])
    scores = Scores(0, cross, None, torch.ones(1, 4, dtype=torch.bool))
    assert pictures.holding(0.5)(scores).tolist() == [[True, False, False, False]]
    assert pictures.holding(0.79)(scores).tolist() == [[True, False, True, False]]
    assert pictures.holding(1.0)(scores).tolist() == [[True, False, True, True]]
    assert pictures.holding(0.0)(scores).tolist() == [[True, False, False, False]]


def test_grid_order_is_even_at_every_length():
    score = pictures.by_grid((8, 8))(Scores(0, torch.zeros(1, 64), None, None))[0].numpy()
    order = np.argsort(-score)
    for side in (1, 2, 4):
        rows, columns = np.divmod(order[: side * side], 8)
        assert sorted(zip(rows, columns, strict=True)) == [(r, c) for r in range(0, 8, 8 // side) for c in range(0, 8, 8 // side)]


def test_multiply_adds_are_those_of_the_layers(reader):
    """Count the products that the layers really do, token by token, and the two products of attention."""
    config, done = reader.text.config, []
    hooks = [
        m.register_forward_hook(lambda m, i, o: done.append(i[0].numel() // i[0].shape[-1] * m.weight.numel()))
        for layer in reader.text.layers
        for m in layer.modules()
        if isinstance(m, torch.nn.Linear)
    ]
    glance = pictures.exam(reader, 100, 9).part(0, 1).glance
    rule, at = pictures.scheduled([64, 64, 20, 20, 20, 7, 7, 7])
    with torch.inference_mode():
        _, state = reader.answer(glance, rule, at=at, mode="remove")
    for hook in hooks:
        hook.remove()
    counts = [int(k) for k in state.kept]
    attention = sum(2 * (c + 3) ** 2 * config.num_attention_heads * config.head_dim for c in counts)
    assert sum(done) + attention == pictures.macs(config, counts, 3)
    facts = report.cost_facts(config, 8, 3)
    meters = {m["name"]: m["value"] for m in report.cost_meters(facts, counts, 64)}
    assert abs(meters["multiply_adds"] - pictures.macs(config, counts, 3) / 1e6) < 1e-9
    assert abs(meters["cache_bytes"] - pictures.cache_bytes(config, counts, 3) / 1e3) < 1e-9


# ---- G-Search --------------------------------------------------------------------------------------------------------


def test_the_search_with_kept_states_is_the_plain_search(reader):
    system = g_search.GSearch(method="g-search", calibration=30, held_out=20, compare=False, delta=3.0)
    system.prepare()
    system._calibration = pictures.exam(reader, 30, report.CALIBRATION_SEED)
    fast = system.greedy(wb.tape.NullTape(), system.delta)
    base = system.value(pictures.sit(reader, system._calibration))
    slow, trials = schedules.g_search(system.metric_of, 8, 64, base - 3.0, confirm=2)
    assert fast == slow
    assert any(t.feasible for t in trials)
    assert system.metric_of(fast) >= base - 3.0 - 1e-4


def test_kept_patches_of_the_picture_follow_the_counts():
    score = np.random.default_rng(0).random((4, 9))
    keep = g_search.kept_of(score, [9, 5, 2, 0])
    assert keep.sum(1).tolist() == [9, 5, 2, 0]
    assert (keep[1:] <= keep[:-1]).all()
    assert set(np.flatnonzero(keep[1])) == set(np.argsort(-score[0])[:5])


def test_the_picture_shows_the_patches_that_the_run_kept():
    """Ranked by what the thinned-out layers see; the dense layers would rank them otherwise."""
    knobs = SMALL | {"method": "p-sigmoid", "budget": 0.25, "steepness": 1.0, "floor": 0.05, "compare": False}
    system = wb.system.get("g_search")(**knobs)
    record = system.record()
    keep, dense = record.column("patches", "keep"), record.column("patches", "score")
    counts = keep.sum(1).tolist()
    assert counts == schedules.p_sigmoid(0.25, *keep.shape, 1.0, 0.05)
    rule, _ = pictures.scheduled(counts)
    with torch.inference_mode():
        found = system._reader.answer(system._glance, rule, at=range(system._reader.layers))[1].scores
    own = np.stack([s.cross[0].numpy() for s in found])
    np.testing.assert_array_equal(keep, g_search.kept_of(own, counts))
    assert (keep != g_search.kept_of(dense, counts)).any()


def test_a_live_budget_is_counted_exactly_and_marked(searched):
    system = wb.system.get("g_search")(method="p-sigmoid", trials=2, calibration=40, budget=0.3, **SMALL)
    assert system.derive(searched) == {}
    system.set(budget=0.6)
    moved = system.rederive(searched)
    meters = {
        str(m): (float(v), str(p))
        for m, v, p in zip(*(moved["meters"][n].values for n in ("meter", "value", "provenance")), strict=True)
    }
    assert abs(meters["kept_share"][0] - 0.6) < 0.01
    assert meters["kept_share"][1] == "derived"
    assert meters["accuracy"][1] == "estimated"
    assert np.isnan(meters["questions_per_second"][0])
    assert moved["patches"]["keep"].values.mean() == pytest.approx(0.6, abs=0.01)


def test_a_live_budget_below_the_floor_of_the_run_says_that_the_floor_gives_way(searched):
    floor = searched.group_attrs("patches")["floor"]
    system = wb.system.get("g_search")(method="p-sigmoid", trials=2, calibration=40, budget=0.3, **SMALL)
    system.set(budget=0.14)
    moved = system.rederive(searched)
    rest = (0.14 * 8 - 1) / 7
    assert moved.group_attrs("curve/schedule")["floor_now"] == pytest.approx(min(floor, rest))
    assert ("cannot pay the floor" in moved.text("schedule")) == (rest < floor)


def test_a_study_puts_both_scenarios_beside_all_other_methods(monkeypatch):
    monkeypatch.setattr(report, "SHARES", (0.2, 0.5))
    monkeypatch.setattr(report, "LOSSES", (2.0, 10.0))
    knobs = {"method": "p-sigmoid", "budget": 0.5, "trials": 0, "calibration": 40, "study": True, **SMALL}
    record = wb.run("g_search", **knobs)
    names, share, right = (record.column("curve/accuracy", n) for n in ("curve", "x", "y"))
    fitted, searched = (names == report.FITTED, names == report.SEARCHED)
    np.testing.assert_allclose(share[fitted], [0.2, 0.5], atol=0.01)
    assert right[names == "this run"] == right[fitted][1]  # the run is the same search at the same budget
    few, many = (schedule_share(loss) for loss in (10.0, 2.0))
    np.testing.assert_allclose(share[searched], [many, few], atol=1e-6)


def schedule_share(delta):
    """Return the mean share of G-Search's own run with this loss."""
    record = wb.run("g_search", method="g-search", delta=delta, calibration=40, **SMALL)
    return float(record.column("curve/accuracy", "x")[0])


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"method": "fastv", "budget": 0.14}, "budget: expected at least 0.250: the first 2 layers keep everything, got 0.14"),
        ({"method": "p-sigmoid", "budget": 0.2, "floor": 0.5}, "floor: expected at most 0.086 under a budget of 0.2, got 0.5"),
    ],
)
def test_a_budget_that_cannot_be_had_is_refused_before_the_run(knobs, sentence):
    with pytest.raises(InputError, match=sentence):
        wb.system.get("g_search")(**SMALL | knobs).prepare()


@pytest.mark.parametrize(("key", "knobs"), [("g_search", {"budget": 0.6}), ("atp_llava", {"theta_r_offset": 0.2})])
def test_what_the_papers_report_stands_beside_and_no_slider_moves_it(key, knobs):
    from widgets.recorded import recorded_run

    record = recorded_run(key)
    moved = wb.system.get(key)(**record.knobs | knobs).rederive(record)
    for found in (record, moved):
        reported = found.column("meters", "provenance") == "reported"
        assert reported.sum() == 2
        assert np.isfinite(found.column("meters", "value")[reported]).all()


def test_the_true_run_has_the_costs_that_the_slider_said(searched):
    facts = searched.group_attrs("patches")
    again = wb.run(
        "g_search", method="p-sigmoid", steepness=facts["steepness"], floor=facts["floor"], calibration=40, budget=0.6, **SMALL
    )
    system = wb.system.get("g_search")(method="p-sigmoid", budget=0.6, **SMALL)
    moved = system.rederive(searched)
    for name in ("kept_share", "multiply_adds", "cache_bytes"):
        assert moved.meter(name)["value"] == pytest.approx(again.meter(name)["value"], rel=1e-9)


# ---- ATP -------------------------------------------------------------------------------------------------------------


def test_trained_modules_beat_chance_at_their_budget(reader):
    big = pictures.exam(reader, 200, 12)
    found = report.adaptive(reader, 200, 12)
    shares = [o.share for o in found]
    assert shares == sorted(shares, reverse=True)
    for outcome in found:
        rule, at = pictures.scheduled(schedules.uniform(max(outcome.share, 0.13), 8, 64), pictures.by_chance(0))
        assert outcome.accuracy > pictures.sit(reader, big, rule, at=at).accuracy


def test_learnt_thresholds_are_no_worse_than_the_fixed_schedule_of_their_mean_share(reader):
    """The paper's claim, on 400 questions that no training saw: at equal mean tokens, against two full layers and one count."""
    big = pictures.exam(reader, 400, 13)
    for found in report.adaptive(reader, 400, 13):
        if found.share * reader.layers > 2:
            rule, at = pictures.scheduled(schedules.step(found.share, reader.layers, 64))
            assert found.accuracy >= pictures.sit(reader, big, rule, at=at).accuracy, f"at a share of {found.share:.2f}"


def test_every_method_is_on_the_one_exam():
    """One picture holds this run, both other papers, chance, a grid, nothing at all and the ceiling, on the same questions."""
    from widgets.recorded import recorded_run

    curves = {}
    for key in ("g_search", "atp_llava"):
        record = recorded_run(key)
        assert record.group_attrs("curve/accuracy")["samples"] == 300
        found = record["curve/accuracy"]
        curves[key] = {
            (str(n), round(float(x), 4)): round(float(y), 4)
            for n, x, y in zip(*(found[c].values for c in ("curve", "x", "y")), strict=True)
        }
        names = {n for n, _ in curves[key]}
        assert {
            "this run",
            "all picture tokens",
            "trained thresholds (ATP)",
            "ZipVL's rule, layer by layer",
            "chance",
            "an even grid",
        } <= names
        assert {"one step after layer 2 (FastV)", "nothing after layer l", "what the answer needs (ceiling)"} <= names
    own = {
        "this run",
        "these thresholds, moved together",
        report.FITTED,
        report.SEARCHED,
    }  # the last two: of a study, on one page
    shared = [{k: v for k, v in c.items() if k[0] not in own} for c in curves.values()]
    assert {report.FITTED, report.SEARCHED} <= {n for n, _ in curves["g_search"]}
    assert shared[0] == shared[1]


def test_the_recorded_run_is_that_of_the_shipped_modules(reader):
    from widgets.recorded import recorded_run

    found = recorded_run("atp_llava")["curve/accuracy"]
    mine = found["curve"].values.astype(str) == "trained thresholds (ATP)"
    now = report.adaptive(reader, 300, report.HELD_OUT_SEED)
    np.testing.assert_allclose(found["x"].values[mine], [o.share for o in now], atol=2e-3)
    np.testing.assert_allclose(found["y"].values[mine], [o.accuracy for o in now], atol=0.01)


def test_live_offsets_replay_what_was_recorded(pruned):
    system = wb.system.get("atp_llava")(budget=0.35, **SMALL)
    assert system.derive(pruned) == {}
    system.set(theta_r_offset=0.2, theta_s_offset=0.2)
    moved = system.rederive(pruned)
    assert moved["patches"]["keep"].values.sum() <= pruned["patches"]["keep"].values.sum()
    true = wb.run("atp_llava", budget=0.35, theta_r_offset=0.2, theta_s_offset=0.2, **SMALL)
    np.testing.assert_array_equal(
        moved["patches"]["keep"].values[:2], true["patches"]["keep"].values[:2]
    )  # exact behind the first module
    assert moved.meter("accuracy")["provenance"] == "estimated"


def test_both_records_are_drawn_in_pictures_and_words(searched, pruned):
    for record in (searched, pruned):
        record.validate()
        for name in wb.system.get(record.attrs["system"]).shows:
            assert record.figure(name).data
            assert record.text(name)


# ---- pictures, questions, bad input ----------------------------------------------------------------------------------


def test_questions_about_a_scene_have_their_true_answer():
    shown = pictures.picture("scene", "auto", 3)
    assert shown.answer
    again = pictures.picture("scene", shown.question, 3)
    assert (again.answer, again.asked) == (shown.answer, shown.asked)
    assert pictures.picture("scene", "count of red", 3).answer in "01234"
    assert pictures.picture("coffee", "auto", 0).answer == ""


def test_ones_own_picture_is_read_and_named():
    image = np.random.default_rng(0).random((50, 70, 3)).astype(np.float32)
    record = wb.run("g_search", image=image, question="count of red", method="uniform", budget=0.5, **SMALL)
    assert record.knobs["image"].startswith("your own picture")
    assert record["image"]["pixels"].shape[:2] == (50, 50)
    system = wb.system.get("g_search")()
    restored = system.pictures_of(record)
    assert restored["image"].shape == (50, 50, 3)
    system.set(**restored)


@pytest.mark.parametrize("key", ["g_search", "atp_llava"])
@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"question": "colour of house"}, "house"),
        ({"model": "smollm2-135m"}, "reads text only"),
        ({"image": "nothing"}, "one of scene"),
        ({"image": np.zeros((4, 4))}, r"\(h, w, 3\)"),
        ({"image": np.full((4, 4, 3), np.nan)}, "finite"),
        ({"image": np.zeros((1, 1, 3))}, "2 x 2"),
        ({"budget": 0.01}, "0.13|one of"),
    ],
)
@pytest.mark.model
def test_bad_input_is_one_sentence(key, knobs, says):
    with pytest.raises(WorkbenchError, match=says):
        wb.run(key, **{"held_out": 20, "compare": False} | knobs)


def test_a_reader_of_other_words_cannot_sit_the_exam():
    from tests.instruments.test_vision import tiny
    from workbench.instruments.vision import VisionReader

    with pytest.raises(InputError, match="words that the model knows"):
        pictures.exam(VisionReader(tiny()), 4, 0)
    with pytest.raises((InputError, ModelError)):
        wb.run("atp_llava", model=tiny(), image="coffee", question="what is this", **SMALL)
