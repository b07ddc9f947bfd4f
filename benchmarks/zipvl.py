"""ZipVL on SmolLM2: what is kept, what it costs in quality and what it gains in time, beside every baseline, on the same words.

    python benchmarks/zipvl.py                            # a passage of a play, about 1100 tokens
    python benchmarks/zipvl.py --letters 6000             # longer: attention is a larger share of the work
    python benchmarks/zipvl.py --needles 5                # and the sentence hidden in the middle, at five lengths

Quality is that of the text's own next words, held back from both runs: divergence from the dense run, agreement of the next token,
perplexity. Time is the sparse prefill with its probes beside the dense one with the fused attention that the model normally uses,
in turn in the same run. Bytes are those of the packed cache, parameters included.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import workbench as wb
from workbench import data

#: Name -> knobs. Baselines that fix a share take the one that tau 0.975 had kept, so that both keep as many tokens.
SETTINGS: dict[str, dict[str, Any]] = {
    "tau 1, 16 bits (dense)": {"tau": 1.0, "bits_high": 16, "bits_low": 16},
    "tau 0.99": {"tau": 0.99},
    "tau 0.975 (paper)": {},
    "tau 0.975, 16 bits": {"bits_high": 16, "bits_low": 16},
    "tau 0.96": {"tau": 0.96},
    "tau 0.9": {"tau": 0.9},
    "same share in each layer": {"fixed_ratio": 0.0},
    "keys only": {"skip": "keys"},
    "no probes (every query)": {"probes_recent": 4096, "probes_random": 0},
    "the others are evicted": {"others": "evict"},
    "2 bits for all": {"bits_high": 2, "bits_low": 2},
}
SECRETS = (
    "The password of the library is seven green lanterns.", "The name of the old ferry is Silver Heron.",
    "The number of the locked room is four hundred and two.", "The colour of the second door is pale orange.",
    "The price of the last map is nine copper rings.", "The hour of the next meeting is half past six.",
)  # fmt: skip
COLUMNS = ("kept_share", "attention_work", "divergence", "next_token_agreement", "perplexity", "cache_bytes")


def measured(prompt: str, new_tokens: int, knobs: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return meter -> (value, dense value)."""
    record = wb.run("zipvl", prompt=prompt, new_tokens=new_tokens, compare_on="the text's own end", progress=False, **knobs)
    found = {name: record.meter(name) for name in (*COLUMNS, "prefill", "words_right")}
    return {name: (float(row["value"]), float(row["baseline"])) for name, row in found.items()}


def quality(letters: int, new_tokens: int) -> None:
    """Print one line a setting."""
    prompt, share = data.passage("play", letters), 0.75
    print(f"{'setting':26} {'kept':>6} {'work':>6} {'KL':>7} {'agree':>6} {'perplexity':>11} {'cache':>7} {'prefill':>9}")
    for name, knobs in SETTINGS.items():
        row = measured(prompt, new_tokens, knobs | ({"fixed_ratio": round(share, 3)} if "fixed_ratio" in knobs else {}))
        if name == "tau 0.975 (paper)":
            share = row["kept_share"][0]
        print(
            f"{name:26} {row['kept_share'][0]:6.1%} {row['attention_work'][0]:6.2f} {row['divergence'][0]:7.4f} {row['next_token_agreement'][0]:6.1%} "
            f"{row['perplexity'][0]:5.2f}/{row['perplexity'][1]:5.2f} {row['cache_bytes'][1] / row['cache_bytes'][0]:6.2f}x "
            f"{row['prefill'][0] / row['prefill'][1]:8.2f}x",
            flush=True,
        )  # fmt: skip
    print("perplexity beside the dense run's; cache: fp16 bytes over stored bytes; prefill: speed over dense, probes included")


def needles(number: int) -> None:
    """Print for each setting how many hidden sentences are finished word for word, at growing lengths."""
    loaded = wb.models.load("smollm2-135m")
    asked = []
    for i, letters in enumerate(np.linspace(1200, 3600, number)):
        secret = SECRETS[i % len(SECRETS)]
        asked.append((data.needle(int(letters), secret), len(loaded.encode(secret[secret.index(" is ") + 3 :], chat=False))))
    ways = {k: SETTINGS[k] for k in ("tau 1, 16 bits (dense)", "tau 0.975 (paper)", "tau 0.9", "keys only", "2 bits for all")}
    for name, knobs in ways.items():
        rows = [measured(text, answer, knobs) for text, answer in asked]
        found, dense = (sum(row["words_right"][i] == 1.0 for row in rows) for i in (0, 1))
        surprise = np.median([row["perplexity"] for row in rows], 0)
        print(
            f"needles, {name:24} {found} of {number} finished word for word (dense {dense}), median perplexity {surprise[0]:.2f} (dense {surprise[1]:.2f})",
            flush=True,
        )


def main() -> None:
    """Print the table, and the needles if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--letters", type=int, default=2800)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--needles", type=int, default=0)
    args = parser.parse_args()
    quality(args.letters, args.new_tokens)
    if args.needles:
        needles(args.needles)


if __name__ == "__main__":
    main()
