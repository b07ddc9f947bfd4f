"""The scene generator against closed forms: depth, projection, flow, occlusion, normals, photometric constancy, speed is elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.data import scenes, textures
from workbench.errors import InputError, UnknownNameError

NAMES = list(scenes.PRESETS)


def turned(shown: scenes.Scene, yaw: float, position: tuple[float, float, float]) -> scenes.Camera:
    """Return the scene's camera, turned and moved."""
    c, s = np.cos(yaw), np.sin(yaw)
    rotation = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return scenes.replace(shown.camera, rotation=rotation, position=np.array(position))


def test_the_depth_of_a_slanted_plane_is_its_formula() -> None:
    normal, point = np.array([0.2, -0.3, -1.0]), np.array([0.0, 0.0, 5.0])
    paint = textures.waves(np.random.default_rng(0))
    camera = scenes.camera(31, 45, 40.0)
    shown = scenes.Scene("plane", (scenes.Thing("plane", point, normal, paint, 1),), camera)
    y, x = np.mgrid[0:31, 0:45]
    rays = np.stack([(x - 22) / 40, (y - 15) / 40, np.ones_like(x)], -1)
    np.testing.assert_allclose(scenes.render(shown, camera).depth, (point @ normal) / (rays @ normal), rtol=1e-12)


def test_a_sphere_and_a_box_have_the_extent_they_should() -> None:
    paint = textures.waves(np.random.default_rng(0))
    ball = scenes.Thing("sphere", np.array([0, 0, 6.0]), np.full(3, 1.5), paint, 3)
    block = scenes.Thing("box", np.array([0, 0, 6.0]), np.array([1.0, 1.0, 0.5]), paint, 2)
    camera = scenes.camera(101, 101, 100.0)
    for thing, near, far in ((ball, 4.5, 7.5), (block, 5.5, 6.5)):
        shown = scenes.Scene("one", (thing,), camera)
        enter, leave = scenes.spans(shown, camera.position, camera.rays(np.array([[50.0, 50.0], [0.0, 0.0]])))
        np.testing.assert_allclose(enter[0], [near, np.inf])
        np.testing.assert_allclose(leave[0, 0], far)
    frame = scenes.render(scenes.Scene("ball", (ball,), camera), camera)
    # The silhouette of a ball at distance z on the axis has radius f r / sqrt(z^2 - r^2).
    edge = 100 * 1.5 / np.sqrt(36 - 1.5**2)
    y, x = np.mgrid[0:101, 0:101] - 50.0
    inside = np.hypot(x, y) < edge
    np.testing.assert_array_equal(frame.thing == 0, inside)
    np.testing.assert_allclose(np.linalg.norm(frame.normal[inside], axis=1), 1)


@pytest.mark.parametrize("name", [*NAMES, "random"])
def test_points_project_back_to_their_pixels(name: str) -> None:
    shown = scenes.random_scene(4) if name == "random" else scenes.preset(name)
    camera = turned(shown, 0.2, (0.3, -0.1, 0.4))
    frame = scenes.render(shown, camera)
    points = camera.position + frame.depth.reshape(-1, 1) * camera.rays(camera.pixels())
    hit = np.isfinite(frame.depth).ravel()
    places, depth = camera.project(points[hit])
    assert np.abs(places - camera.pixels()[hit]).max() < 1e-6
    np.testing.assert_allclose(depth, frame.depth.ravel()[hit], rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_backward_flow_cancel_where_both_are_visible(name: str) -> None:
    shown = scenes.preset(name, seed=2).moving(0.3)
    one, other = shown.camera, turned(shown, 0.05, (-0.4, 0.0, 0.0))
    flow, visible = scenes.flow(shown, one, 0.0, other, -1.0)
    assert visible.mean() > 0.5
    places = (one.pixels() + flow.reshape(-1, 2))[visible.ravel()]
    depth, thing = scenes.cast(shown, other, places, -1.0)
    velocity = np.stack([t.velocity for t in shown.things])[thing]
    again, _ = one.project(other.position + depth[:, None] * other.rays(places) + velocity)
    assert np.abs(again - one.pixels()[visible.ravel()]).max() < 1e-6


def test_what_another_camera_cannot_see_is_marked_hidden() -> None:
    """A board at depth 4 hides a strip of the wall at depth 8: f B (1/4 - 1/8) = 6 px when the camera moves 0.4 m."""
    shown = scenes.preset("walls")
    _, visible = scenes.flow(shown, shown.camera, 0.0, shown.moved_camera(0.4), 0.0)
    row = scenes.render(shown, shown.camera).thing[32]
    board = np.flatnonzero(row == 1)
    hidden = np.flatnonzero(~visible[32] & (row == 0))
    inner = hidden[hidden < 140]  # the wall also leaves the image on the right: f B / 8 = 6 px
    np.testing.assert_array_equal(inner, np.arange(board[-1] + 1, board[-1] + 7))
    assert (~visible[32, 154:]).all()


def test_a_mover_shifts_by_the_closed_form_and_nothing_else_moves() -> None:
    shown = scenes.preset("walls").moving(0.2)
    flow, visible = scenes.flow(shown, shown.camera, 0.0, shown.moved_camera(0.4), -1.0)
    frame = scenes.render(shown, shown.camera)
    np.testing.assert_allclose(flow[frame.moving & visible][:, 0], 120 * (0.4 - 0.2) / 4, atol=1e-9)
    np.testing.assert_allclose(flow[~frame.moving & visible][:, 0], 120 * 0.4 / 8, atol=1e-9)
    np.testing.assert_allclose(flow[visible][:, 1], 0, atol=1e-9)


@pytest.mark.parametrize("texture", ["waves", "photograph"])
def test_a_point_keeps_its_colour_from_frame_to_frame(texture: str) -> None:
    shown = scenes.preset("walls", texture=texture).moving(0.4)  # moves with the camera: flow 0 on the board, 6 px on the wall
    now, before = scenes.render(shown, shown.camera), scenes.render(shown, shown.moved_camera(0.4), -1.0)
    flow, visible = scenes.flow(shown, shown.camera, 0.0, shown.moved_camera(0.4), -1.0)
    y, x = np.nonzero(visible)
    other = before.image[y, (x + np.round(flow[visible][:, 0])).astype(int)]
    np.testing.assert_allclose(now.image[y, x], other, atol=2e-3)


def test_textures_do_not_alias_however_far() -> None:
    """A distant wave turns faster than a pixel: it must fade instead of folding into a coarse one."""
    paint = textures.waves(np.random.default_rng(1), finest=0.1, coarsest=0.2)
    wall = scenes.Thing("plane", np.array([0, 0, 200.0]), np.array([0, 0, -1.0]), paint, 1)
    image = scenes.render(scenes.Scene("far", (wall,), scenes.camera()), scenes.camera()).image
    assert image.std((0, 1)).max() < 0.02  # 0.15 without the filter


def test_the_seed_draws_textures_and_random_scenes_differ() -> None:
    same = [scenes.render(s, s.camera).image for s in (scenes.preset("street", 1), scenes.preset("street", 1))]
    np.testing.assert_array_equal(*same)
    other = scenes.preset("street", 2)
    assert np.abs(scenes.render(other, other.camera).image - same[0]).max() > 0.1
    depths = [scenes.render(s, s.camera).depth for s in map(scenes.random_scene, range(3))]
    assert all(np.isfinite(d).all() and d.min() > 0.5 for d in depths)
    assert len({d.tobytes() for d in depths}) == 3


def test_errors_name_what_is_there() -> None:
    with pytest.raises(UnknownNameError, match="street"):
        scenes.preset("stret")
    with pytest.raises(UnknownNameError, match="waves"):
        scenes.preset("street", texture="wave")
    with pytest.raises(UnknownNameError, match="brick"):
        textures.picture(np.random.default_rng(0), "brik")
    with pytest.raises(InputError, match="focal length"):
        scenes.camera(4, 4, 0.0)


def test_a_shape_that_nobody_can_draw_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="sphere"):
        scenes.Thing("spher", np.zeros(3), np.ones(3), scenes.preset("street").things[0].texture, 1)
