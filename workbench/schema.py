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
            "served? | layer, expert | int64 | token | of these, not dropped",
            "text? | token | int32 | text | which text the token belongs to, ascending",
            "piece? | token | str | | text of the token",
            "candidate? | layer, token, rank | int16 | expert | the likeliest experts, whatever the capacity",
            "probability? | layer, token, rank | float32 | probability | the router's probability of each candidate",
        ),
        _group(
            "moe_layers",
            "The layers that have experts; a scrubber moves through them.",
            "step | moe_layer | int32 | layer | row of `routing` (0 = first layer with experts)",
            "layer | moe_layer | int32 | layer | index among all layers of the model (-1: one choice for all of them)",
            "balance | moe_layer | float64 | 1 | load-balance loss: the number of choices at perfect balance",
            "imbalance | moe_layer | float64 | x the mean | load of the busiest expert over the mean load",
            "dropped | moe_layer | float64 | share | share of the choices over capacity (derived)",
        ),
        _group(
            "grouping",
            "How the tokens of a kind spread over the experts: `grouping/domain`, `grouping/position`, `grouping/token`.",
            "name | value | str | | the kind: a domain, a range of positions, a token",
            "share | layer, value, expert | float32 | share | share of first choices; a row sums to 1",
            "occurrences | value | int64 | token | tokens of this kind",
        ),
        _group(
            "transition",
            "How first choices of one layer with experts follow those of the layer before it.",
            "share | pair, expert, next_expert | float32 | share | probability of the next given the expert, a row sums to 1 (NaN: never chosen)",
        ),
        _group(
            "layer_overlap",
            "What the first expert in one layer tells of that in another.",
            "told | layer, other_layer | float32 | share | mutual information less chance, over the entropy in the other layer (derived)",
        ),
        _group(
            "training",
            "The router while it was trained, on a fixed probe of held-out text; `overlap` is with its final choice.",
            "run | row | str | | with router losses, or without",
            "step | row | int32 | step | training step",
            "layer | row | int32 | layer | row of `routing`",
            "overlap | row | float64 | share | share of a token's experts that it has at the end too",
            "divergence | row | float64 | nat | Jensen-Shannon divergence from the final shares of frequent token ids, mean",
            "balance | row | float64 | 1 | load-balance loss",
            "loss | row | float64 | nats / token | held-out loss",
            "load | row, expert | float64 | share | share of the choices of each expert",
        ),
        _group(
            "claims",
            "What the paper says, and what was found here, also where it does not hold.",
            "claim | row | str | | the statement",
            "measure | row | str | | what was measured",
            "value | row | float64 | 1 | the finding",
            "low | row | float64 | 1 | lower 95 % bound (NaN = none)",
            "high | row | float64 | 1 | upper 95 % bound (NaN = none)",
            "compared | row | float64 | 1 | what it is compared with",
            "compared_name | row | str | | what that is",
            "verdict | row | str | | holds, fails or unclear",
        ),
        _group(
            "perplexity",
            "What a model reads of each kind of text, whole and cut into experts.",
            "kind | row | str | | kind of text",
            "reader | row | str | | who reads: the dense model, experts by some router, one expert for all, random neurons",
            "value | row | float64 | 1 | perplexity",
            "low | row | float64 | 1 | lower 95 % bound over texts (NaN = none)",
            "high | row | float64 | 1 | upper 95 % bound over texts (NaN = none)",
        ),
        _group(
            "masks",
            "Neurons that each expert holds of every feed-forward layer.",
            "name | expert | str | | the kind of text it was cut by",
            "shared | layer, expert, other | float32 | share | intersection over union of two experts",
            "permanent | layer | float32 | share | neurons that all experts hold",
            "kept | layer, expert | float32 | share | neurons that the expert holds",
        ),
        _group(
            "traffic",
            "Requests in the order of their arrival, and the expert that each router gives every token of `routing`.",
            "router | router | str | | name of the router",
            "choice | router, token | int8 | expert | its expert for the token",
            "kind | request | str | | kind of text",
            "prompt | request | int32 | token | tokens known on arrival",
            "output | request | int32 | token | tokens that it generates",
            "gap | request | float64 | mean gap | time since the request before it",
        ),
        _group(
            "service",
            "What a batch costs on this machine, by its tokens.",
            "tokens | size | int32 | token | tokens of the batch",
            "rest_ms | size | float64 | ms | the model without its feed-forward layers (whole minus these, at least 0)",
            "expert_ms | size | float64 | ms | one expert in all layers",
            "dense_ms | size | float64 | ms | the dense feed-forward layers",
        ),
        _group(
            "loads",
            "Loading the part of each expert that not all experts share, all layers.",
            "name | expert | str | | the expert",
            "bytes | expert | int64 | B | its own part, fp32",
            "copied_ms | expert | float64 | ms | measured: copied from memory to memory",
            "copied_low | expert | float64 | ms | 10th percentile",
            "copied_high | expert | float64 | ms | 90th percentile",
            "simulated_ms | expert | float64 | ms | bytes over the bandwidth (derived)",
        ),
        _group(
            "batches",
            "The serving simulation, batch by batch.",
            "step | batch | int32 | batch | index of the batch",
            "start_ms | batch | float64 | ms | when it starts (derived)",
            "load_ms | batch | float64 | ms | loads of experts that the cache lacks (derived)",
            "compute_ms | batch | float64 | ms | computing (derived)",
            "total_ms | batch | float64 | ms | until the next batch can start (derived)",
            "tokens | batch | int32 | token | tokens in it (derived)",
            "distinct | batch | int32 | experts | experts that it needs (derived)",
            "waiting | batch | int32 | token | known tokens that it leaves in the queue (derived)",
            "resident | batch, expert | bool | | the expert is in the cache after the batch (derived)",
        ),
        _group(
            "uses",
            "One row for each expert that a batch of the simulation needs.",
            "step | row | int32 | batch | the batch",
            "expert | row | int16 | expert | the expert (derived)",
            "tokens | row | int32 | token | its tokens in the batch (derived)",
            "hit | row | bool | | it was in the cache (derived)",
            "evicted | row | int16 | expert | who left for it (-1: nobody) (derived)",
        ),
        _group(
            "strategies",
            "The same requests under other rules of serving.",
            "batching | row | str | | how batches are formed",
            "policy | row | str | | who leaves a full cache",
            "hit_rate | row | float64 | share | uses that found their expert in the cache (derived)",
            "mean_ms | row | float64 | ms | latency of a request, arrival to last token (derived)",
            "p50_ms | row | float64 | ms | median (derived)",
            "p95_ms | row | float64 | ms | 95th percentile (derived)",
            "p99_ms | row | float64 | ms | 99th percentile (derived)",
            "first_ms | row | float64 | ms | mean time to the first token (derived)",
            "distinct | row | float64 | expert | experts of a batch, mean (derived)",
            "bytes | row | float64 | B / token | loaded for each token (derived)",
            "shown | row | bool | | the rules that the other pictures show",
        ),
        _group(
            "cost_volume",
            "Matching cost of every depth hypothesis at every pixel; coordinate `depth` in metres.",
            "cost | depth_bin, y, x | float32 | cost | lower matches better",
            "probability | depth_bin, y, x | float32 | probability | softmax over depth",
            "valid | depth_bin, y, x | bool | | the sample falls inside the source image",
            "depth? | depth_bin | float32 | m | the hypothesis",
            "fused? | depth_bin, y, x | float32 | 1 | both opinions joined, in [0, 1] over the depths of a pixel",
        ),
        _group(
            "maps",
            "Named images of (y, x) with units, such as those below; cameras and settings stand in the attrs.",
            "depth_true? | y, x | float32 | m | exact or measured depth (NaN = unknown)",
            "depth_multi? | y, x | float32 | m | the cheapest match (NaN = nothing to compare)",
            "depth_single? | y, x | float32 | m | what one frame alone suggests",
            "depth_fused? | y, x | float32 | m | after the two are joined",
            "depth_manydepth? | y, x | float32 | m | the match, or the single frame where they differ by a factor of two",
            "depth_network? | y, x | float32 | m | a trained multi-frame decoder's reading of the fused volume",
            "depth_classical? | y, x | float32 | m | semi-global matching by a library, on rectified pairs (NaN = none found)",
            "depth_cv? | y, x | float32 | m | the volume's depth as the dynamic probability uses it",
            "sigma? | y, x | float32 | m | standard deviation of the single-frame depth",
            "uncertainty? | y, x | float32 | probability | that the pixel shows something that moves",
            "entropy? | y, x | float32 | share | entropy of the matching law over ln D",
            "peak_ratio? | y, x | float32 | ratio | smallest cost over the smallest one elsewhere",
            "p_max? | y, x | float32 | probability | greatest matching probability",
            "lowest_cost? | y, x | float32 | cost | smallest matching cost",
            "spread? | y, x | float32 | m | standard deviation of depth under the matching law",
            "weight? | y, x | float32 | 1 | weight of the pixel in the self-supervised loss",
            "photometric? | y, x | float32 | cost | photometric error of the joined depth (NaN = outside)",
            "moving_true? | y, x | bool | | the pixel shows something that moves",
        ),
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
