"""ProDepth: two frames tell depth by matching, one frame tells it by looking; what moves makes the matching surely wrong.

Woo, Lee, Kim, Yoon, "ProDepth: Boosting Self-Supervised Multi-Frame Monocular Depth with Probabilistic Fusion", ECCV 2024,
arXiv 2407.09303. A plane sweep between two frames gives each pixel a law over depth candidates. A thing that moves has a sharp,
cheap, wrong minimum there, so the volume's own doubt cannot find it; the contradiction with a single-frame depth can. Measured
here, on scenes whose depth is exact and on a real stereo pair: errors of still and of moving parts, and who finds the movers.

Differs from the paper: features are colours; with teacher "simulated" the single-frame depth is the truth with a smooth bias of
12 % and the auxiliary decoder is the cheapest match under a median ("object coherence"); with teacher "trained" three small networks
stand in, supervised by exact depth instead of by photometric error. Where the released code and the paper disagree, `u_form`
and `product` choose. One network unit is one metre, or four for the trained networks, unless `unit` says otherwise: beta and gamma depend on it.

| paper | here | shape |
|---|---|---|
| C, d_i | `Volume.cost`, `Volume.depths` | (D, h, w), (D,) m |
| p_cv, p_s, P | `matching_law`, `single_law`, `pcvm` | (D, h, w) |
| U, beta, gamma | `dynamic_probability`, `beta`, `gamma` | (h, w) |
| D_single, sigma, D_cv | `depth_single`, `sigma`, `depth_cv` | (h, w) m |
| w | `loss_weight` | (h, w) |
| m / B | `object_speed` | |
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import param

from workbench.errors import InputError, expected
from workbench.record import Record
from workbench.system import Columns, PictureInput, System, knob
from workbench.systems.geometry import analysis, full, pairs, studies, volume
from workbench.systems.geometry.analysis import Choice
from workbench.tape import NullTape, Tape

SCENES = (*pairs.SYNTHETIC, "motorcycle", "pair")
NONE = "none"
CHOSEN = tuple(n for n in Choice.__dataclass_fields__ if n not in {"nearest", "farthest"})
LIVE = ("object_speed", "pose_noise_deg", "photometric_noise", *CHOSEN)
#: All that a volume depends on, but for a reader's own pictures.
MATCHED = (
    "scene", "texture", "seed", "baseline", "nearest", "farthest", "object_speed", "pose_noise_deg", "photometric_noise", "depth_bins", "binning",
    "cost", "patch",
)  # fmt: skip


class ProDepth(System):
    """Matching cost, single-frame depth, and their probabilistic fusion on one pair of frames."""

    key = "prodepth"
    title = "ProDepth"
    year = 2024
    arxiv = "2407.09303"
    family = "geometry"
    asks = "Can two frames tell that something between them moved?"
    shows = (
        "depth_maps", "cost_curve", "error_split", "movers_found", "uncertainty_maps", "ghost_speed", "threshold_sweep", "volume_slice",
        "depth_wipe", "point_cloud",
    )  # fmt: skip
    sometimes = ("error_split", "movers_found", "ghost_speed", "threshold_sweep")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"scene": "street", "object_speed": 0.5, "gamma": 0.6, "beta": 0.6, "teacher": "simulated", "resolution": "live"},
        "blind spot": {"scene": "street", "object_speed": 0.25, "gamma": 0.6, "beta": 0.6, "teacher": "simulated", "resolution": "live"},
        "keeps pace": {"scene": "street", "object_speed": 1.0, "gamma": 0.6, "beta": 0.6, "teacher": "simulated", "resolution": "live"},
        "trust nobody": {"scene": "street", "object_speed": 0.5, "gamma": 0.05, "beta": 3.0, "teacher": "simulated", "resolution": "live"},
        "real pixels": {"scene": "motorcycle", "object_speed": 0.5, "gamma": 0.6, "beta": 0.6, "teacher": "simulated", "resolution": "live"},
        "true teacher": {"scene": "street", "object_speed": 0.5, "gamma": 0.6, "beta": 0.6, "teacher": "trained", "resolution": "live"},
    }  # fmt: skip
    notes = (
        "Reported, unverified: on Cityscapes an absolute relative error of 0.095, ManyDepth 0.114, DynamicDepth 0.103; on KITTI 0.086. "
        "The simulated teacher is the true depth with a smooth bias of 12 %, so its errors say nothing about real teachers; choose the "
        "trained one for those. The moving thing in the motorcycle pair is a pasted patch."
    )
    follows: ClassVar[dict[str, str]] = dict(zip(LIVE, LIVE, strict=True))
    limits: ClassVar[dict[str, int]] = {"depth_bins": 192}

    scene = knob(param.Selector, "street", objects=list(SCENES), doc="Ray-cast street, corridor or two walls (exact depth); a real stereo pair; your own pair.")  # fmt: skip
    object_speed = knob(param.Number, 0.5, bounds=(-1.0, 1.2), step=0.05, live=True, symbol="m/B", doc="How far the thing moves while the camera moves one baseline, the same way. At 1 it keeps pace.")  # fmt: skip
    gamma = knob(param.Number, 0.6, bounds=(0.0, 1.01), step=0.01, live=True, symbol="γ", doc="From this dynamic probability on, the single frame is heard; above 1 never.")  # fmt: skip
    beta = knob(param.Number, 0.6, bounds=(0.05, 3.0), step=0.05, live=True, symbol="β", doc="How fast a disagreement in depth becomes certainty that something moves, per network unit.")  # fmt: skip
    sigma = knob(param.Number, 20.0, bounds=(2.0, 60.0), step=1.0, live=True, symbol="σ", doc="Scale of the single frame's standard deviation; 20 is a fifth of the depth for the simulated teacher.")  # fmt: skip
    temperature = knob(param.Number, 1.0, bounds=(0.01, 1.0), step=0.01, live=True, symbol="T", doc="Of the softmax over scaled costs; 1 leaves the law nearly flat.")  # fmt: skip
    depth_bins = knob(param.Integer, 64, bounds=(8, 192), live=True, symbol="D", doc="Depth candidates (128 in the paper).")
    binning = knob(param.Selector, "log", objects=list(volume.BINNINGS), live=True, doc="How candidates are spaced between the nearest and the farthest.")  # fmt: skip
    cost = knob(param.Selector, "l1", objects=list(volume.COSTS), live=True, doc="What a match costs: colour difference, structure, or 0.85 of the latter with 0.15 of the former.")  # fmt: skip
    patch = knob(
        param.Selector, 3, objects=[1, 3, 5, 7], live=True, doc="Side of the window over which costs are averaged, pixels."
    )
    pose_noise_deg = knob(param.Number, 0.0, bounds=(0.0, 2.0), step=0.05, live=True, unit="deg", label="Pose noise", doc="Error of the rotation that the method is told.")  # fmt: skip
    photometric_noise = knob(param.Number, 0.0, bounds=(0.0, 0.2), step=0.005, live=True, doc="Standard deviation of noise on the other frame, of full intensity.")  # fmt: skip
    teacher = knob(param.Selector, "simulated", objects=["simulated", "trained"], doc="Single-frame depth: the truth with a bias of 12 %, or a small trained network.")  # fmt: skip
    resolution = knob(param.Selector, "live", objects=["live", "full"], doc="64 x 160, or every pixel of the motorcycle pair (on release).")  # fmt: skip
    texture = knob(param.Selector, "waves", objects=["waves", "photograph"], doc="What the ray-cast scenes are painted with.")
    left = knob(PictureInput, NONE, names=(NONE,), doc="Your own rectified pair: the left picture (scene: pair).")
    right = knob(PictureInput, NONE, names=(NONE,), doc="Your own rectified pair: the right picture, of the same size.")
    baseline = knob(param.Number, 0.4, bounds=(0.0, 2.0), step=0.01, unit="m", symbol="B", advanced=True, doc="How far the camera moves between frames (scenes, own pair).")  # fmt: skip
    focal = knob(param.Number, 1000.0, bounds=(50.0, 20000.0), unit="px", advanced=True, doc="Focal length of your own pictures, in their pixels.")  # fmt: skip
    nearest = knob(param.Number, None, allow_None=True, bounds=(0.05, 100.0), unit="m", advanced=True, doc="First candidate; auto: what fits the scene.")  # fmt: skip
    farthest = knob(param.Number, None, allow_None=True, bounds=(0.1, 1000.0), unit="m", advanced=True, doc="Last candidate; auto: what fits the scene.")  # fmt: skip
    coherence = knob(param.Selector, 5, objects=[1, 3, 5, 7], live=True, advanced=True, doc="Side of the median that stands for the auxiliary decoder's object coherence, pixels.")  # fmt: skip
    u_form = knob(param.Selector, "paper", objects=["paper", "code"], live=True, advanced=True, doc="Dynamic probability from depths (paper) or from depths and disparities (released code).")  # fmt: skip
    product = knob(param.Selector, "masked", objects=["masked", "everywhere"], live=True, advanced=True, doc="Join both laws only where U reaches gamma (released code) or at every pixel (paper).")  # fmt: skip
    unit = knob(param.Number, 1.0, bounds=(0.1, 10.0), step=0.1, live=True, advanced=True, label="Network unit", doc="Scale of the unit in which beta counts: a metre with the simulated teacher, four with the trained networks, times this.")  # fmt: skip
    study = knob(param.Boolean, True, advanced=True, doc="Also sweep object speed, gamma and beta.")

    # ---- checks ------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Check that the pair, the range and the teacher fit each other; load the trained networks if asked for."""
        choice = choice_of(self)
        volume.bins(choice.nearest, choice.farthest, choice.depth_bins, choice.binning)
        if self.resolution == "full" and self.scene != "motorcycle":
            raise InputError(
                expected("resolution", "live, except for the motorcycle", f"full with {self.scene}", then="Set resolution='live'")
            )
        if self.resolution == "full" and self.teacher == "trained":
            raise InputError(expected("teacher", "simulated at full resolution", "trained", then="Set resolution='live'"))
        volume.check(setting_of(self).pair)
        networks_of(self)

    def warm(self) -> None:
        """Compile the sweep."""
        analysis.analyse(setting_of(self), choice_of(self), networks_of(self))

    def pictures_of(self, record: Record) -> dict[str, np.ndarray]:
        """Return the reader's own pair from a record's groups `image` (left) and `image/source` (right)."""
        own = {"left": "image", "right": "image/source"}
        names = [n for n in super().pictures_of(record) if own[n] in record]
        return {n: record.column(own[n], "pixels").astype(np.float32) / 255 for n in names}

    # ---- the run -----------------------------------------------------------------------------------------------------

    def run(self, tape: NullTape) -> None:
        """Take the pair, time its volume, analyse it at full size where asked, and sweep the knobs that the paper turns."""
        choice, whole = choice_of(self), self.resolution == "full"
        setting = setting_of(self, full_size=whole)
        tape.step(0, 1, phase="two frames")
        found = full.analyse(setting, choice, tape) if whole else None
        if not isinstance(tape, Tape):
            if found is None:
                analysis.analyse(setting, choice, networks_of(self))
            return
        for group, image in (("image", setting.pair.target), ("image/source", setting.pair.source)):
            tape.write(group, pixels=np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
        for row in studies.speed(setting, choice, tape, own=found.milliseconds if found else None):
            tape.write("meters", **row)
        tape.describe(
            "image",
            **facts_of(self),
            focal_px=float(setting.pair.intrinsics[0, 0]),
            run=json.dumps({n: getattr(self, n) for n in LIVE}),
        )
        if self.study and self.scene != "pair":

            def at(speed: float) -> pairs.Setting:
                return setting_of(self, speed=speed)

            for group, columns, labels in studies.sweeps(at, self.object_speed, choice, networks_of(self), tape):
                tape.write(group, **columns)
                tape.describe(group, **labels)
        if found is not None:
            self._write_full(tape, found, setting)

    def _write_full(self, tape: Tape, found: full.Whole, setting: pairs.Setting) -> None:
        for group, columns in found.groups.items():
            tape.write(group, **columns)
            tape.describe(group, **(found.labels[group] | facts_of(self)))
        for row in found.meters:
            tape.write("meters", **row)

    # ---- live --------------------------------------------------------------------------------------------------------

    def derive(self, record: Record) -> Columns:
        """Return volume, maps, errors, ROC and meters for the present live knobs: the pair is taken and swept again.

        A record at full resolution keeps its own groups until a live knob moves; then the 64 x 160 window answers, its
        figures marked as estimates of the full size.
        """
        if not self._moved(record):
            return {}
        knobs, facts = self._of(record), self._facts(record)
        setting, joint = joined(knobs)
        found = analysis.doubted(joint, setting)
        judged = analysis.judge(found, setting)
        columns, labels = analysis.groups(found, setting, judged, facts)
        if "curve/movers" in record and "curve/movers" not in columns:  # as saved; its picture stays, and says that nothing moves
            columns["curve/movers"] = judged.lines
            labels["curve/movers"] = {n: v for n, v in record.group_attrs("curve/movers").items() if not n.startswith("auc ")}
            labels["curve/movers"] |= {f"auc {name}": float("nan") for name in judged.areas}
        provenance = "estimated" if facts["preview"] else "measured"
        measured = analysis.rows_of(record, lambda kind: kind != "quality")
        speed = measured if facts["preview"] else studies.speed_at(measured, self.depth_bins, *setting.true.shape)
        meters = speed + analysis.quality(found, setting, judged, provenance)
        if knobs.scene == "motorcycle":
            meters += analysis.bad(found, setting, 0.5, provenance)
        columns["meters"] = analysis.columns_of(meters)
        columns["curve/here"] = studies.here(judged, {n: getattr(self, n) for n in LIVE})
        labels["curve/here"] = {"x_label": "knob", "y_label": "AbsRel"}
        return {**columns, "attrs": labels}  # type: ignore[dict-item]

    def lead(self, record: Record) -> Columns:
        """Return the depth maps alone; `derive` then goes on from them. A reader's own pair is not kept between the two."""
        if not self._moved(record) or self._of(record).scene == "pair":
            return {}
        maps = joined(self._of(record))[1].maps
        return {"maps": maps, "attrs": {"maps": self._facts(record)}}  # type: ignore[dict-item]

    def _moved(self, record: Record) -> bool:
        """Return whether the live knobs say anything else than the record: one at full resolution keeps its groups until then."""
        attrs = record.group_attrs("image")
        if "scene" not in attrs:
            return False
        return attrs["resolution"] != "full" or {n: getattr(self, n) for n in LIVE} != json.loads(attrs["run"])

    def _facts(self, record: Record) -> dict[str, Any]:
        whole = record.group_attrs("image")["resolution"] == "full"
        return facts_of(self._of(record)) | {n: getattr(self, n) for n in LIVE} | {"preview": whole}

    def _of(self, record: Record) -> SimpleNamespace:
        """Return the record's run knobs with this system's live ones: a run knob acts in the next run only."""
        knobs = SimpleNamespace(**record.knobs | self.pictures_of(record) | {n: getattr(self, n) for n in LIVE})
        knobs.seed = record.attrs["seed"]
        if knobs.scene == "pair":
            knobs.focal = float(record.group_attrs("image")["focal_px"])  # of the picture as the record keeps it
        return knobs


# ---- what the knobs say: of a system, or of a record with a system's live knobs ---------------------------------------


def choice_of(knobs: Any) -> Choice:
    """Return the live knobs, the depth range filled in, the unit in metres."""
    near, far = pairs.RANGES.get(str(knobs.scene), pairs.DEFAULT_RANGE)
    choice = Choice(**{n: getattr(knobs, n) for n in CHOSEN}, nearest=knobs.nearest or near, farthest=knobs.farthest or far)
    if knobs.teacher != "trained":
        return choice
    from workbench.systems.geometry import networks

    return replace(choice, unit=choice.unit * networks.UNIT)


def networks_of(knobs: Any) -> Any:
    """Return the trained networks where they are asked for, else None."""
    if knobs.teacher != "trained":
        return None
    from workbench.systems.geometry import networks

    return networks.load()


def setting_of(knobs: Any, *, speed: float | None = None, full_size: bool = False) -> pairs.Setting:
    """Return the pair as the knobs have it, disturbed as they say; `speed` in place of the mover's own.

    What could move and stands still is no mover, but for a curve over speeds, which follows one thing through 0.
    """
    still = speed is None and knobs.object_speed == 0
    speed = float(knobs.object_speed if speed is None else speed)
    if knobs.scene == "pair":
        setting = _own(knobs)
    elif knobs.scene == "motorcycle":
        setting = pairs.motorcycle(speed, full=full_size)
    else:
        setting = pairs.scene(knobs.scene, knobs.texture, knobs.seed, knobs.baseline, speed)
    if still:
        setting = setting._replace(moving=np.zeros_like(setting.moving))
    return pairs.disturbed(setting, knobs.pose_noise_deg, knobs.photometric_noise, knobs.seed)


def seen_by(knobs: Any) -> tuple[pairs.Setting, volume.Volume]:
    """Return the pair and its volume; those of the last two settings are kept: most live knobs change neither."""
    if knobs.scene == "pair":
        setting = setting_of(knobs)
        return setting, analysis.volume_of(setting, choice_of(knobs))
    return _kept(tuple(getattr(knobs, n) for n in MATCHED))


@lru_cache(maxsize=2)
def _kept(values: tuple[Any, ...]) -> tuple[pairs.Setting, volume.Volume]:
    knobs = SimpleNamespace(**dict.fromkeys(CHOSEN) | dict(zip(MATCHED, values, strict=True)), teacher="simulated")
    setting = setting_of(knobs)
    return setting, analysis.volume_of(setting, choice_of(knobs))


def joined(knobs: Any) -> tuple[pairs.Setting, analysis.Found]:
    """Return the pair and its joined depths; those of the last settings are kept: `derive` goes on where `lead` was."""
    if knobs.scene == "pair":
        setting, swept = seen_by(knobs)
        return setting, analysis.join(setting, choice_of(knobs), networks_of(knobs), swept)
    return _joined(tuple(getattr(knobs, n) for n in MATCHED), choice_of(knobs), str(knobs.teacher))


@lru_cache(maxsize=4)
def _joined(values: tuple[Any, ...], choice: Choice, teacher: str) -> tuple[pairs.Setting, analysis.Found]:
    setting, swept = _kept(values)
    return setting, analysis.join(setting, choice, networks_of(SimpleNamespace(teacher=teacher)), swept)


def _own(knobs: Any) -> pairs.Setting:
    missing = [n for n in ("left", "right") if isinstance(getattr(knobs, n), str)]
    if missing:
        raise InputError(expected("left and right", "two pictures of yours", f"no {missing[0]} one", then="Choose both files"))
    if knobs.teacher != "trained":
        wanted = "trained for your own pair, whose true depth nobody knows"
        raise InputError(expected("teacher", wanted, "simulated", then="Set teacher='trained'"))
    return pairs.own(knobs.left, knobs.right, knobs.focal, knobs.baseline)


def facts_of(knobs: Any) -> dict[str, Any]:
    """Return what a reader must know of a picture."""
    real = knobs.scene == "motorcycle"
    return {
        "scene": str(knobs.scene), "teacher": str(knobs.teacher), "resolution": str(knobs.resolution), "texture": str(knobs.texture),
        "mover": "a pasted patch" if real else "", "baseline_m": float(pairs.MOTO_BASELINE if real else knobs.baseline),
    }  # fmt: skip
