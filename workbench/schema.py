"""What a record may hold: the groups, their dimensions, variables, dtypes and units. The one source of `schema.md`.

A group's kind is the first segment of its path: `curve/latency` follows the schema of `curve`. A record of a sweep
adds the leading dimension `setting` to `meters` and keeps each run's own groups under `runs/<i>/`.
Run `python -m workbench.schema` to print `schema.md`; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SCHEMA_VERSION = 1
PROVENANCES = ("measured", "derived", "estimated", "predicted", "reported")
KINDS = ("speed", "quality", "cost")
DIRECTIONS = ("higher", "lower")
#: What `settings.error` says of a setting that is still to come.
PENDING = "not run yet"
ATTRS = (
    "system",
    "knobs",
    "seed",
    "created",
    "versions",
    "device",
    "kernels",
    "workbench_version",
    "schema_version",
)


@dataclass(frozen=True)
class Variable:
    """One array of a group: dims in order, numpy kind ("i", "f", "b", "U"), dtype as stored, unit ("" = a name)."""

    name: str
    dims: tuple[str, ...]
    dtype: str
    unit: str
    doc: str
    optional: bool = False

    @property
    def provenance(self) -> str:
        """ "derived" or "predicted" for what no run records as it happens, else "" (measured, or a name)."""
        if self.name.startswith("predicted_"):
            return "predicted"
        return "derived" if "(derived)" in self.doc else ""


@dataclass(frozen=True)
class Group:
    """A named set of labelled arrays that some views can draw."""

    name: str
    doc: str
    variables: tuple[Variable, ...]
    index: dict[str, Variable] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", {v.name: v for v in self.variables})


def _group(name: str, doc: str, *rows: str) -> Group:
    """Parse rows of `name[?] | dims | dtype | unit | doc` ("?" marks an optional variable)."""
    variables = []
    for row in rows:
        label, dims, dtype, unit, text = (cell.strip() for cell in row.split("|"))
        names = tuple(d.strip() for d in dims.split(",") if d.strip())
        variables.append(Variable(label.rstrip("?"), names, dtype, unit, text, label.endswith("?")))
    return Group(name, doc, tuple(variables))


#: What a diffusion decoder saw and decided in every round; shared by `unmasking` and `film`.
_FILM = (
    "confidence | round, position | float32 | probability | probability of the likeliest token (NaN where not masked)",
    "entropy | round, position | float32 | nat | entropy of the position's law (NaN where not masked)",
    "top1 | round, position | int32 | token id | likeliest token",
    "commit_round | position | int32 | round | round that revealed the position (-1 = prompt)",
    "token_id | position | int32 | token id | final token",
    "margin? | round, position | float32 | probability | difference of the two largest probabilities (NaN where not masked)",
    "piece? | position | str | | text of the final token",
    "information? | position | float32 | nat | -log p of the token under the law that decided it (NaN where given)",
    "explored? | position | bool | | decided on purpose although uncertain",
    "estimated? | position | bool | | a replay's guess: the state was never visited (derived)",
    "right? | position | bool | | the token belongs to a right answer that agrees with all decided before it",
)

GROUPS: dict[str, Group] = {
    g.name: g
    for g in (
        _group(
            "meters",
            "At least one speed and one quality figure of every run, each with its baseline from the same run.",
            "meter | meter | str | | name of the meter",
            "value | meter | float64 | per meter | the figure, in `unit`",
            "unit | meter | str | | unit of value and baseline",
            "kind | meter | str | | speed, quality or cost",
            "better | meter | str | | higher or lower",
            "provenance | meter | str | | measured, derived, estimated, predicted or reported",
            "baseline | meter | float64 | per meter | the same figure for the baseline (NaN = none)",
            "baseline_name | meter | str | | what the baseline is",
            "low? | meter | float64 | per meter | 10th percentile or lower confidence bound (NaN = none)",
            "high? | meter | float64 | per meter | 90th percentile or upper confidence bound (NaN = none)",
            "samples? | meter | int64 | count | how many measurements stand behind the value",
        ),
        _group(
            "text",
            "The tokens in reading order, and where each came from.",
            "token_id | position | int32 | token id | id in the target's vocabulary",
            "piece | position | str | | text of the token, bytes outside UTF-8 escaped",
            "generated | position | bool | | false for the prompt",
            "step | position | int32 | step | decoding step that emitted it (-1 = prompt)",
            "source | position | str | | prompt, draft, residual, bonus, target, unmasked, ...",
            "target_logprob? | position | float32 | nat | log-probability under the target's processed law",
        ),
        _group(
            "steps",
            "One row for each call of the target.",
            "step? | step | int32 | step | index of the step",
            "drafted | step | int32 | token | tokens proposed by the draft",
            "accepted | step | int32 | token | proposals the target accepted (without the bonus)",
            "emitted | step | int32 | token | tokens written: accepted + 1",
            "draft_ms | step | float64 | ms | time in the draft",
            "target_ms | step | float64 | ms | time of the target's forward pass",
            "verify_ms | step | float64 | ms | time of the acceptance walk",
            "total_ms | step | float64 | ms | whole step",
            "kv_ms? | step | float64 | ms | time spent keeping the accepted cache rows",
            "rows? | step | int32 | row | rows of the target's forward pass (root + nodes)",
            "predicted_draft_ms? | step | float64 | ms | draft time under the chosen latency model",
            "predicted_target_ms? | step | float64 | ms | target time under the chosen latency model",
            "replayed? | step | int32 | token | tokens the trimmed tree emits in this step (derived)",
            "stop? | step | str | | residual, bonus or eos",
        ),
        _group(
            "tree",
            "Every node of every step's token tree, in level order; node 0 is the last emitted token.",
            "step | row | int32 | step | decoding step",
            "node | row | int32 | node | index within the step (0 = root)",
            "parent | row | int32 | node | index of the parent (-1 for the root)",
            "depth | row | int32 | level | 0 for the root",
            "sibling_rank | row | int32 | rank | order in which siblings are tried (0 = first; -1 for the root)",
            "token_id | row | int32 | token id | id in the target's vocabulary",
            "piece | row | str | | text of the token",
            "draft_logprob | row | float32 | nat | log-probability under the draft given the parent (NaN for the root)",
            "target_logprob | row | float32 | nat | log-probability under the target given the parent (NaN for the root)",
            "visited | row | bool | | the acceptance walk tried this node",
            "accepted | row | bool | | the walk accepted it",
            "cumulative_logprob? | row | float32 | nat | draft log-probability of the path from the root",
            "perturbed? | row | float32 | nat | Gumbel-perturbed score that ordered the siblings",
            "uniform? | row | float32 | probability | the draw compared with the ratio (NaN if not visited)",
            "kept? | row | bool | | the node is in the tree as the live knobs trim it (derived)",
            "ratio? | row | float32 | ratio | residual over remaining draft probability (NaN if not visited)",
        ),
        _group(
            "laws",
            "The laws along the acceptance walk: for each tried child, the likeliest tokens under each law.",
            "step | row | int32 | step | decoding step",
            "node | row | int32 | node | the node whose children are tried",
            "trial | row | int32 | trial | 0 = before the first child; j = after j rejections",
            "token_id | row | int32 | token id | candidate",
            "piece | row | str | | text of the candidate",
            "target | row | float32 | probability | the target's processed law at the node",
            "draft | row | float32 | probability | the draft's processed law at the node",
            "residual | row | float32 | probability | r_j, what the walk still has to emit",
            "remaining | row | float32 | probability | Q_j, the draft's law without the rejected siblings",
        ),
        _group(
            "samples",
            "Many independent outputs of one decoder on a table model.",
            "token_id | sample, position | int32 | token id | emitted token",
        ),
        _group(
            "unmasking",
            "A diffusion decoder's view of every position in every round.",
            *_FILM,
        ),
        _group(
            "film",
            "The same of another decoder (`film/baseline`), or of a replay with other knobs (`film/shown`).",
            *_FILM,
        ),
        _group(
            "rounds",
            "One row for each round of a parallel decoder.",
            "kind | round | str | | exploit, explore, fallback, static or verify",
            "sequences | round | int32 | sequence | sequences forwarded",
            "committed | round | int32 | token | positions revealed",
            "information_marginal | round | float64 | nat | sum of the committed tokens' marginal information (NaN unknown)",
            "information_joint | round | float64 | nat | joint information (NaN unknown)",
            "budget_marginal | round | float64 | nat | bound on the marginal information",
            "budget_joint | round | float64 | nat | bound on the joint information",
            "wall_ms | round | float64 | ms | measured time",
            "confident? | round | int32 | token | tokens that the rule trusted in the state as it was",
        ),
        _group(
            "candidates",
            "What an exploring decoder tried in each exploring round: the state itself (place -1) and one token decided on purpose.",
            "step | row | int32 | round | the round",
            "place | row | int32 | position | where the token was tried (-1: nowhere)",
            "piece | row | str | | the token",
            "logprob | row | float32 | nat | log-probability of the token in the state itself",
            "unlocked | row | int32 | token | tokens that the rule trusts in the candidate",
            "won | row | bool | | this candidate was taken",
            "wins? | row | bool | | this candidate would be taken with the present weight (derived)",
        ),
        _group(
            "parallel",
            "The marginals from which a round decided tokens independently, and the combinations that they can give.",
            "step | row | int32 | round | the round",
            "kind | row | str | | marginal (one token of one position) or combination (all tokens of the round)",
            "place | row | int32 | position | position of a marginal; rank of a combination",
            "piece | row | str | | the token, or the tokens with blanks between them",
            "probability | row | float32 | probability | under the marginal, or the product of marginals",
            "joint | row | float32 | probability | of a combination under the true law (NaN for marginals and where unknown)",
            "drawn | row | bool | | what the round decided",
        ),
        _group(
            "attention",
            "Pooled attention: mean probability of each pair of bins; no T x T array.",
            "mass | layer, head, query_bin, key_bin | float32 | probability | rows sum to 1",
            "token_score | layer, position | float32 | score | importance of the token in the layer",
            "keep | layer, position | bool | | token kept in the layer",
            "keep_ratio | layer | float32 | share | kept share of the tokens",
            "token_mass? | layer, position | float32 | query | attention on the token, summed over the probes, mean over heads",
            "sink_share? | layer, head | float32 | share | share of all probability that the first token receives",
            "piece? | position | str | | text of the token",
        ),
        _group(
            "readers",
            "Who looks at every single token: mean over heads, queries pooled.",
            "received | layer, query_bin, position | uint8 | 1/255 | square root of the mean probability that a bin's queries put on the token",
        ),
        _group(
            "heads",
            "One layer's queries and keys (`layer` in the attrs), from which any part of any head's attention follows exactly.",
            "query | head, position, feature | float32 | score | scaled: query . key is the score",
            "key | key_head, position, feature | float32 | 1 | keys; a key head serves as many heads in a row as fit",
            "log_sum | head, position | float32 | score | log-sum-exp of the query's causal scores",
        ),
        _group(
            "image",
            "The picture that a model looked at, as its image processor crops it.",
            "pixels | y, x, channel | uint8 | intensity | red, green, blue",
        ),
        _group(
            "patches",
            "What each layer does with a picture's tokens, row by row over its grid; `rows` and `columns` stand in the attrs.",
            "score | layer, patch | float32 | probability | how much the question looks at the token",
            "keep | layer, patch | bool | | the layer sees the token",
            "reason? | layer, patch | int8 | | 0 dropped, 1 redundancy score, 2 spatial score, 3 both",
            "asked? | patch | bool | | the true answer lies here",
        ),
        _group(
            "thresholds",
            "What trained modules ask of a token: `thresholds/picture` for the picture shown, `thresholds/exam` for many questions.",
            "layer | module | int32 | layer | the module stands behind this layer (0 = first)",
            "theta_r | module, question | float32 | score | threshold of the redundancy score",
            "theta_s | module, question | float32 | score | threshold of the spatial score",
            "redundancy | module, question, patch | float32 | score | mean of how picture and question look at the token",
            "spatial | module, patch | float32 | score | how sparse a grid the token lies on (-100: none)",
            "kind? | question | str | | what the question asks for",
            "right? | question | bool | | the answer with pruning is right",
            "kept? | question | float32 | token | tokens kept, mean over layers",
        ),
        _group(
            "routing",
            "Which expert took which token in which layer.",
            "expert | layer, token, choice | int16 | expert | chosen expert",
            "weight | layer, token, choice | float32 | weight | combine weight",
            "dropped | layer, token, choice | bool | | over capacity",
            "token_id | token | int32 | token id | the token",
            "position | token | int32 | position | position in its text",
            "domain | token | str | | source of the text",
            "load | layer, expert | int64 | token | tokens sent to the expert",
        ),
        _group(
            "cost_volume",
            "Matching cost of every depth hypothesis at every pixel; coordinate `depth` in metres.",
            "cost | depth_bin, y, x | float32 | cost | lower matches better",
            "probability | depth_bin, y, x | float32 | probability | softmax over depth",
            "valid | depth_bin, y, x | bool | | the sample falls inside the source image",
        ),
        _group("maps", "Named images of (y, x) with units: depth_true, uncertainty, ..."),
        _group(
            "curve",
            "Points of named curves; `x_label` and `y_label` stand in the attrs.",
            "curve | row | str | | name of the curve",
            "x | row | float64 | x_label | abscissa",
            "y | row | float64 | y_label | ordinate",
            "y_low | row | float64 | y_label | lower bound (NaN = none)",
            "y_high | row | float64 | y_label | upper bound (NaN = none)",
            "setting? | row | float64 | knob | value of the knob that made the point (NaN = none)",
        ),
        _group("settings", "Knob values of a sweep's settings: one variable of dimension `setting` for each knob."),
    )
}

#: Groups whose variables are free (every variable has the dims given here).
OPEN_GROUPS = {"maps": ("y", "x"), "settings": ("setting",)}


def kind_of(path: str) -> str:
    """Return the schema name of a group path (`runs/3/tree` -> "tree", `curve/latency` -> "curve")."""
    parts = path.strip("/").split("/")
    return parts[2] if parts[0] == "runs" and len(parts) > 2 else parts[0]


def markdown() -> str:
    """Return `schema.md`: every group as a table."""
    lines = [
        "# What a record holds",
        "",
        "Written by `python -m workbench.schema`; `Record.validate()` enforces it when a record is made and when one is loaded.",
        "A record is a tree of named groups of labelled arrays. Views draw groups: any record that has a group can be drawn.",
        "A group's kind is the first segment of its path (`curve/latency` is a `curve`). A sweep adds the leading dimension",
        "`setting` to `meters` and keeps each run's groups under `runs/<i>/`. Optional variables are marked with `?`.",
        "",
        f"Schema version {SCHEMA_VERSION}. Attributes of every record: {', '.join(f'`{a}`' for a in ATTRS)}.",
        f"Provenance is one of: {', '.join(PROVENANCES)}.",
    ]
    for group in GROUPS.values():
        lines += ["", f"## `{group.name}`", "", group.doc]
        if group.variables:
            lines += ["", "| variable | dims | dtype | unit | meaning |", "|---|---|---|---|---|"]
        for v in group.variables:
            mark = "?" if v.optional else ""
            lines.append(f"| `{v.name}`{mark} | {', '.join(v.dims)} | {v.dtype} | {v.unit or '-'} | {v.doc} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
