"""Oracles of volume and fusion: identity pose, two forms of one map, exact minima, ghosts in closed form, limits of PCVM."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data import scenes
from workbench.errors import InputError
from workbench.systems.geometry import analysis, fusion, loops, pairs, scores, volume
from workbench.systems.geometry.analysis import Choice

DEPTHS = volume.bins(1.5, 40, 64, "log")
STEP = (40 / 1.5) ** (1 / 63)  # ratio of neighbouring bins: 5.3 %


def moved(name: str = "walls", speed: float = 0.0, baseline: float = 0.4, texture: str = "waves") -> pairs.Setting:
    return pairs.scene(name, texture, 0, baseline, speed)


def pose(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a small random rotation and a translation."""
    x, y, z = rng.normal(0, 0.1, 3)
    turn = np.eye(3) + np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    u, _, v = np.linalg.svd(turn)
    return u @ v, rng.normal(0, 0.5, 3)


# ---- 1: the volume ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", volume.COSTS)
def test_without_motion_every_slice_is_the_same(cost: str) -> None:
    rng = np.random.default_rng(0)
    images = rng.random((2, 20, 30, 3), np.float32)
    pair = volume.Pair(*images, scenes.camera(20, 30, 25.0).intrinsics, np.eye(3), np.zeros(3))
    found = volume.sweep(pair, DEPTHS, cost=cost)
    inner = found.cost[:, 3:-3, 3:-3]
    assert np.abs(inner - inner[0]).max() < 1e-5
    if cost == "l1":
        np.testing.assert_allclose(inner[0], np.abs(images[0] - images[1]).mean(-1)[3:-3, 3:-3], atol=1e-6)
    with pytest.raises(InputError, match="a camera that moves"):
        volume.check(pair)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), depth=st.floats(0.5, 60))
def test_homography_and_back_projection_are_one_map(seed: int, depth: float) -> None:
    rng = np.random.default_rng(seed)
    rotation, translation = pose(rng)
    image = np.zeros((9, 9, 3), np.float32)
    pair = volume.Pair(image, image, scenes.camera(64, 160, 120.0).intrinsics, rotation, translation)
    pixel = rng.uniform(0, [160, 64])
    there = volume.homography(pair, depth) @ [*pixel, 1.0]
    found = volume.positions(pair, tuple(pixel), np.array([depth]))[0]
    if there[2] > 0.05:
        np.testing.assert_allclose(found, there[:2] / there[2], atol=1e-4, rtol=1e-9)


@pytest.mark.parametrize("texture", ["waves", "photograph"])
def test_the_true_depth_is_the_minimum_where_there_is_texture_and_no_occlusion(texture: str) -> None:
    setting = moved("street", texture=texture)
    shown = scenes.preset("street", 0, texture=texture)
    _, visible = scenes.flow(shown, shown.camera, 0.0, shown.moved_camera(0.4), 0.0)
    found = volume.sweep(setting.pair, DEPTHS, patch=3)
    raw = fusion.cheapest(found.cost, found.valid, DEPTHS)
    grey = setting.pair.target.mean(-1)
    textured = np.abs(np.gradient(grey, axis=1)) > 0.02  # the camera moves sideways: only vertical edges can be matched
    from scipy.ndimage import binary_erosion

    flat = binary_erosion(
        np.abs(np.gradient(setting.true, axis=1)) + np.abs(np.gradient(setting.true, axis=0)) < 0.2, iterations=2
    )
    judged = visible & textured & flat & np.isfinite(raw)
    assert judged.sum() > 700
    near = np.abs(np.log(raw[judged] / setting.true[judged])) <= np.log(STEP) * 1.5
    assert near.mean() >= 0.95


@pytest.mark.parametrize("speed", [-0.5, 0.25, 0.5, 0.75, 0.875])
def test_a_moving_thing_seems_to_stand_at_the_closed_form(speed: float) -> None:
    setting = moved("walls", speed)
    found = volume.sweep(setting.pair, DEPTHS, patch=3)
    raw = fusion.cheapest(found.cost, found.valid, DEPTHS)
    apparent = float(np.median(raw[setting.moving]))
    assert abs(np.log(apparent / (4 / (1 - speed)))) <= np.log(STEP)


def test_keeping_pace_looks_infinitely_far_and_its_direction_does_not_matter() -> None:
    found = analysis.analyse(moved("walls", 1.0), Choice())
    assert np.median(found.maps["depth_multi"][moved("walls").moving]) > 30
    corridor = pairs.scene("corridor", "waves", 0, 0.4, 0.5)  # the camera goes aslant, the cart along with it
    volume_ = volume.sweep(corridor.pair, DEPTHS, patch=3)
    raw = fusion.cheapest(volume_.cost, volume_.valid, DEPTHS)
    front = corridor.moving & (np.abs(corridor.true - 4.0) < 1e-6)
    assert abs(np.log(np.nanmedian(raw[front]) / 8.0)) <= 1.5 * np.log(STEP)


def test_costs_agree_with_the_kernel_and_windows_with_plain_sums() -> None:
    rng = np.random.default_rng(1)
    cost, valid = rng.random((3, 9, 13), np.float32), rng.random((3, 9, 13)) > 0.3
    for patch in (3, 5):
        half = patch // 2
        out = volume.pooled(cost, valid, patch)
        for i, y, x in np.ndindex(cost.shape):
            window = np.s_[i, max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
            wanted = cost[window][valid[window]].mean() if valid[i, y, x] else 0.0
            np.testing.assert_allclose(out[i, y, x], wanted, rtol=1e-5)


def test_a_missing_cost_is_the_pixels_largest_and_a_perfect_match_is_not_missing() -> None:
    setting = moved("walls")
    found = volume.sweep(setting.pair, DEPTHS)
    highest = np.where(found.valid, found.cost, -1).max(0)
    missing = ~found.valid & found.valid.any(0)
    np.testing.assert_array_equal(found.cost[missing], np.broadcast_to(highest, found.cost.shape)[missing])
    same = volume.sweep(setting.pair._replace(source=setting.pair.target, translation=np.zeros(3)), DEPTHS)
    assert float(same.cost.max()) == pytest.approx(1.0)  # only the border, where nothing is known
    assert same.valid[:, 5:-5, 5:-5].all()
    assert float(same.cost[:, 5:-5, 5:-5].max()) < 1e-5


@pytest.mark.parametrize("binning", volume.BINNINGS)
def test_bins_start_and_end_where_they_should_and_their_densities_are_the_known_ones(binning: str) -> None:
    depths = volume.bins(0.13, 5.17, 128, binning)
    np.testing.assert_allclose(depths[[0, -1]], [0.13, 5.17], rtol=1e-6)
    assert (np.diff(depths) > 0).all()
    below, last = {"linear": (22, 0.040), "log": (71, 0.148), "inverse": (114, 1.21)}[binning]
    assert abs(int((depths < 1).sum()) - below) <= 1
    assert depths[-1] - depths[-2] == pytest.approx(last, abs=0.03 * last + 0.001)


# ---- 2: structure, warp, scores --------------------------------------------------------------------------------------


def test_ssim_is_that_of_scikit_image() -> None:
    from skimage.metrics import structural_similarity

    rng = np.random.default_rng(2)
    one, other = rng.random((2, 24, 31))
    _, wanted = structural_similarity(
        one, other, win_size=3, data_range=1.0, gaussian_weights=False, use_sample_covariance=False, full=True
    )
    np.testing.assert_allclose(volume.ssim(one, other)[2:-2, 2:-2], wanted[2:-2, 2:-2], atol=1e-5)


def test_the_compiled_ssim_volume_is_the_plain_one() -> None:
    setting = moved("street", 0.3)
    depths = np.array([3.0, 5.0, 9.0], np.float32)
    found = volume.sweep(setting.pair, depths, cost="ssim")
    for i, depth in enumerate(depths):
        back, _ = volume.warp(setting.pair, np.full((64, 160), depth, float))
        planes = [a.transpose(2, 0, 1).astype(np.float64) for a in (setting.pair.target, back)]
        plain = np.clip((1 - volume.ssim(*planes)) / 2, 0, 1).mean(0)
        inner = np.zeros((64, 160), bool)
        inner[3:-3, 3:120] = True  # to the right the window reaches outside the other frame
        np.testing.assert_allclose(found.cost[i][inner & found.valid[i]], plain[inner & found.valid[i]], atol=2e-4)


def test_the_warp_has_the_right_derivative() -> None:
    """A step of depth moves the sample by -f B / z^2: between whole positions bilinear values change linearly with it."""
    setting = moved("walls")
    depth = np.full((64, 160), 5.3)
    small = 1e-5
    plus, minus = (volume.warp(setting.pair, depth + s)[0] for s in (small, -small))
    found = ((plus - minus) / (2 * small))[:, 30:100].astype(float)
    shift = 120 * 0.4 / 5.3
    low = int(np.floor(shift))
    source = setting.pair.source.astype(float)
    slope = source[:, 30 + low + 1 : 100 + low + 1] - source[:, 30 + low : 100 + low]
    np.testing.assert_allclose(found, slope * (-120 * 0.4 / 5.3**2), rtol=1e-3, atol=1e-3)


def test_errors_are_those_of_five_lines_of_numpy() -> None:
    rng = np.random.default_rng(3)
    true, depth = rng.uniform(1, 9, (2, 8, 9))
    depth[0, 0] = np.nan
    found = scores.errors(depth, true)
    d, t = depth.ravel()[1:], true.ravel()[1:]
    np.testing.assert_allclose(found["abs_rel"], np.mean(abs(d - t) / t))
    np.testing.assert_allclose(found["rmse"], np.sqrt(np.mean((d - t) ** 2)))
    np.testing.assert_allclose(found["delta"], np.mean(np.maximum(d / t, t / d) < 1.25))
    assert scores.bad_pixels(np.array([[10.0, 5.0, np.nan]]), np.array([[10.0, 10.0, 10.0]]), 100.0) == pytest.approx(2 / 3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=4, max_size=60))
def test_the_area_under_a_curve_is_the_share_of_pairs_put_right(rows: list[tuple[int, bool]]) -> None:
    score, truth = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows])
    area = scores.roc(score, truth)[2]
    if truth.all() or not truth.any():
        assert np.isnan(area)
        return
    hits, misses = score[truth][:, None], score[~truth][None]
    np.testing.assert_allclose(area, ((hits > misses) + 0.5 * (hits == misses)).mean())


# ---- 3: fusion -------------------------------------------------------------------------------------------------------


def laws(seed: int = 0, depths: int = 32) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return (cost, p_cv, p_s, single depth) of a random small volume."""
    rng = np.random.default_rng(seed)
    cost = rng.random((depths, 6, 7), np.float32)
    centers = volume.bins(1, 20, depths, "log")
    single = rng.uniform(1.2, 18, (6, 7))
    p_cv = fusion.min_max(fusion.matching_law(cost))
    p_s = fusion.min_max(fusion.single_law(centers, single, 0.2 * single))
    return cost, p_cv, p_s, single


def test_nobody_moving_leaves_matching_and_everybody_moving_the_single_frame() -> None:
    cost, p_cv, p_s, single = laws()
    centers = volume.bins(1, 20, 32, "log")
    law, back = fusion.pcvm(cost, p_cv, p_s, np.zeros((6, 7)), 0.0)
    np.testing.assert_array_equal(law.argmax(0), cost.argmin(0))
    np.testing.assert_array_equal(back.argmin(0), cost.argmin(0))
    law, back = fusion.pcvm(cost, p_cv, p_s, np.ones((6, 7)), 0.6)
    nearest = np.abs(centers[:, None, None] - single).argmin(0)
    np.testing.assert_array_equal(law.argmax(0), nearest)
    np.testing.assert_allclose(back.min(0), cost.min(0), atol=1e-6)
    np.testing.assert_allclose(back.max(0), cost.max(0), atol=1e-6)


@pytest.mark.parametrize("sigma", [2.0, 20.0, 60.0])
@pytest.mark.parametrize("product", ["masked", "everywhere"])
def test_a_joined_volume_spans_what_the_raw_one_spans_whatever_the_two_laws_say(sigma: float, product: str) -> None:
    """Laws that share no depth have a product of 0 everywhere, and the first candidate, the nearest, wins for no reason."""
    setting = pairs.scene("street", "waves", 0, 0.4, 0.5)
    choice = Choice(sigma=sigma, product=product, nearest=0.5)  # a first candidate that no pixel is near
    swept = analysis.volume_of(setting, choice)
    found = analysis.join(setting, choice, None, swept)
    single, _, p_s = pairs.opinion(setting, sigma, swept.depths)
    p_cv = fusion.min_max(fusion.matching_law(swept.cost))
    u = found.maps["uncertainty"]
    law, back = fusion.pcvm(swept.cost, p_cv, p_s, u, 0.6, everywhere=product == "everywhere")
    np.testing.assert_allclose(back.max(0), swept.cost.max(0), rtol=1e-5)
    np.testing.assert_allclose(back.min(0), swept.cost.min(0), atol=1e-6)
    np.testing.assert_allclose(law.max(0)[(u >= 0.6) | (product == "everywhere")], 1, rtol=1e-6)
    assert not (found.maps["depth_fused"] == swept.depths[0]).any()
    nearest = np.abs(swept.depths[:, None, None] - single).argmin(0)
    np.testing.assert_array_equal(fusion.pcvm(swept.cost, p_cv, p_s, np.ones_like(u), 0.6)[0].argmax(0), nearest)


def test_a_gamma_above_one_changes_no_depth() -> None:
    cost, p_cv, p_s, _ = laws(1)
    u = np.random.default_rng(4).random((6, 7))
    _, back = fusion.pcvm(cost, p_cv, p_s, u, 1.01)
    np.testing.assert_array_equal(back.argmin(0), cost.argmin(0))


def test_the_exponents_are_those_of_the_formula() -> None:
    _, p_cv, p_s, _ = laws(2)
    u = np.random.default_rng(5).random((6, 7))
    inside = (p_cv > 1e-6) & (p_s > 1e-6)
    found = fusion.fuse(p_cv.astype(float), p_s.astype(float), u)
    wanted = (1 - u) * np.log(np.where(inside, p_cv, 1).astype(float)) + u * np.log(np.where(inside, p_s, 1).astype(float))
    np.testing.assert_allclose(np.log(found[inside]), wanted[inside], atol=1e-6)


@pytest.mark.parametrize("u", [0.2, 0.5, 0.9])
def test_two_gaussians_meet_at_the_precision_weighted_mean(u: float) -> None:
    centers = volume.bins(1, 20, 400, "linear")
    (m1, s1), (m2, s2) = (6.0, 1.5), (11.0, 2.5)
    one, two = (fusion.single_law(centers, np.full((1, 1), m), np.full((1, 1), s)).astype(float) for m, s in ((m1, s1), (m2, s2)))
    law = fusion.fuse(one, two, np.full((1, 1), u))
    wanted = (m1 * (1 - u) / s1**2 + m2 * u / s2**2) / ((1 - u) / s1**2 + u / s2**2)
    assert abs(centers[law.argmax(0)[0, 0]] - wanted) <= (centers[1] - centers[0]) / 2 + 1e-6


@pytest.mark.parametrize(("depths", "floor"), [(128, 0.975), (96, 0.973), (32, 0.964)])
def test_entropy_at_temperature_one_has_a_floor(depths: int, floor: float) -> None:
    """One bin at cost 0 and all others at 1, or the other way round: no costs in [0, 1] give a lower entropy at T = 1."""
    rng = np.random.default_rng(6)
    cost = rng.random((depths, 10, 10), np.float32)
    cost[:, 0] = (rng.random((depths, 10)) < np.linspace(0.01, 0.99, 10)).astype(np.float32)
    cost[0, 0], cost[1, 0] = 0, 1
    seen = volume.Volume(cost, np.ones(cost.shape, bool), volume.bins(1, 20, depths, "log"))
    share = fusion.doubt(seen, fusion.matching_law(cost, 1.0)).entropy
    assert share.min() > floor - 0.0005
    exact = min(_two_level(depths, k) for k in range(1, depths))
    assert abs(exact - floor) < 0.0008
    assert share.min() >= exact - 1e-4


def _two_level(depths: int, cheap: int) -> float:
    weight = np.where(np.arange(depths) < cheap, 1.0, np.exp(-1.0))
    p = weight / weight.sum()
    return float(-(p * np.log(p)).sum() / np.log(depths))


def test_both_forms_of_the_dynamic_probability_have_the_thresholds_the_sheet_of_the_method_gives() -> None:
    edge = np.array([[np.log(2.5) / 0.6]])
    assert fusion.dynamic_probability(edge + 5, np.full((1, 1), 5.0), 0.6)[0, 0] == pytest.approx(0.6)
    one, two = np.array([[2.0]]), np.array([[3.2]])
    total = abs(one - two) + abs(1 / one - 1 / two)
    found = fusion.dynamic_probability(one, two, 0.6, form="code")
    np.testing.assert_allclose(found, 1 - np.exp(-2 / 3 * total))
    np.testing.assert_allclose(
        fusion.dynamic_probability(one * 10, two * 10, 0.6, unit=10.0), fusion.dynamic_probability(one, two, 0.6)
    )


def test_manydepths_mask_is_a_factor_of_two() -> None:
    single, other = np.array([[2.0, 2.0, 2.0, 2.0]]), np.array([[4.01, 3.99, 0.99, 1.01]])
    np.testing.assert_array_equal(fusion.unreliable(single, other), [[True, False, True, False]])


def test_loss_weights_vanish_from_gamma_on() -> None:
    np.testing.assert_allclose(fusion.loss_weight(np.array([0.0, 0.3, 0.6, 0.9]), 0.6), [1, 0.7, 0, 0])


def test_the_weighted_loss_is_that_of_the_formula_and_of_what_is_known() -> None:
    error, weight = np.array([[0.4, 0.1, np.nan, 0.2]]), np.array([[0.5, 1.0, 1.0, 0.0]])
    assert fusion.reweighted(error, weight) == pytest.approx((0.5 * 0.4 + 0.1) / 1.5)
    assert np.isnan(fusion.reweighted(error, np.zeros((1, 4))))


def test_the_photometric_error_is_least_at_the_true_depth() -> None:
    setting = moved("walls")
    exact = volume.photometric(setting.pair, setting.true.astype(float))
    off = volume.photometric(setting.pair, 1.2 * setting.true.astype(float))
    assert np.nanmedian(exact) < 0.25 * np.nanmedian(off)


def test_measures_of_doubt_on_a_volume_made_by_hand() -> None:
    cost = np.array([0.9, 0.8, 0.7, 0.1, 0.5, 0.8, 0.15, 0.2, 0.9, 0.9], np.float32)[:, None, None]
    seen = volume.Volume(cost, np.ones(cost.shape, bool), volume.bins(1, 10, 10, "linear"))
    law = fusion.matching_law(cost, 0.1)
    doubt = fusion.doubt(seen, law)
    assert doubt.peak_ratio[0, 0] == pytest.approx(0.5, abs=1e-5)  # 0.1 against 0.2, four bins away; 0.15 is too near
    assert doubt.margin[0, 0] == pytest.approx(0.5, abs=1e-5)
    assert doubt.curvature[0, 0] == pytest.approx(0.7 - 0.2 + 0.5, abs=1e-6)
    assert doubt.lowest[0, 0] == pytest.approx(0.1)
    p = law[:, 0, 0].astype(float)
    assert doubt.entropy[0, 0] == pytest.approx(-(p * np.log(p)).sum() / np.log(10), abs=1e-5)
    mean = (p * seen.depths).sum()
    assert doubt.spread[0, 0] == pytest.approx(np.sqrt((p * (seen.depths - mean) ** 2).sum()), rel=1e-3)


def test_the_loops_leave_no_window_out() -> None:
    """A window at a corner holds four of nine costs."""
    out = np.empty((1, 3, 3), np.float32)
    loops.pool(np.arange(9, dtype=np.float32).reshape(1, 3, 3), np.ones((1, 3, 3), bool), 1, out)
    assert out[0, 0, 0] == pytest.approx((0 + 1 + 3 + 4) / 4)


@pytest.mark.parametrize("name", list(scenes.PRESETS))
def test_movers_before_what_stands_still_are_the_whole_scene_cast_at_once(name: str) -> None:
    for speed in (-0.8, 0.0, 0.6):
        shown = scenes.preset(name, 3)
        camera = shown.moved_camera(0.4)
        whole = scenes.render(shown.moving(speed * 0.4), camera, -1.0)
        np.testing.assert_allclose(pairs.scene(name, "waves", 3, 0.4, speed).pair.source, whole.image, atol=2e-6)
