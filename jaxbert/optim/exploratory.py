"""Strategies that no claim of the project rests on: each is `uniform` but for what it is about.

Plain rows, made into strategies beside the others. What a source leaves to a search has a value
here that its row explains; none is tuned.
"""

from __future__ import annotations

from typing import Any

_UNIFORM = {"learning_rate": 3e-5, "schedule": "linear", "warmup": 0.1}
_TO_THE_END = {"learning_rate": 3e-5, "schedule": "constant", "warmup": 0.1}
# What LoRA leaves alone of the layers: all but the matrices that it adapts.
_NOT_ADAPTED = r"(encoder/)?layers/(?!.*/attention/(query|value|query_key_value)/kernel$).*"

EXPLORATORY: tuple[dict[str, Any], ...] = (
    {
        "name": "reinit",
        "about": "the top two layers and the pooler start afresh",
        "source": "Zhang et al. 2020, section 4, without decay: what `zhang2020` owes to the new "
        "layers alone. They take 1 to 6 of 24 layers by task; 2 is a common share of 12",
        "settings": {**_UNIFORM, "reinitialize_layers": 2},
    },
    {
        "name": "unfreezing",
        "about": "one more layer every quarter of an epoch, from the top down",
        "source": "Howard & Ruder 2018, section 3.3, without the rest of `ulmfit`. Theirs is a "
        "layer an epoch; at a quarter 12 layers and the embeddings are awake after 3.25 epochs",
        "settings": {**_UNIFORM, "unfreezing": 0.25},
        "epochs": 6,
    },
    {
        "name": "ema",
        "about": "a rate that stays, evaluated at an average of the last hundred steps' weights",
        "source": "Polyak & Juditsky 1992; Morales-Brotons et al. 2024 (arXiv 2411.18704): with an "
        "average the rate needs to fall less. Decay .99, bias-corrected",
        "settings": {**_TO_THE_END, "ema_decay": 0.99},
    },
    {
        "name": "l2-sp",
        "about": "weights decay towards the pre-trained ones instead of zero",
        "source": "Li et al. 2018 (arXiv 1802.01483), decoupled as AdamW's decay is; the head "
        "keeps its own. Theirs is a penalty under SGD, by grid; at 50 a weight that nothing else "
        "moves loses half of its distance in 1,000 steps",
        "settings": {**_UNIFORM, "anchor_decay": 50.0},
    },
    {
        "name": "schedule-free",
        "about": "AdamW with an average of the weights in place of momentum and schedule",
        "source": "Defazio et al. 2024 (arXiv 2405.15682) by optax.contrib, beta1 .9, evaluated at "
        "the average; a warm-up and no decay, as they advise",
        "settings": {**_TO_THE_END, "optimizer": "schedule-free-adamw"},
    },
    {
        "name": "muon",
        "about": "steps with equal singular values: the negative control",
        "source": "Jordan 2024 by optax.contrib, momentum .95, for the matrices of layers and "
        "pooler, AdamW for the rest; steps of AdamW's size (Liu et al. 2025, arXiv 2502.16982). "
        "On networks that Adam pre-trained it does worse than Adam (arXiv 2605.10468)",
        "settings": {**_UNIFORM, "optimizer": "muon", "beta1": 0.95},
    },
    {
        "name": "mixout",
        "about": "each step computes with most of the matrices' rows as they were pre-trained",
        "source": "Lee et al. 2020 (arXiv 1909.11299), with the least of the shares .7, .8 and .9 "
        "that they try on BERT. They turn dropout off; here it stays as the model has it",
        "settings": {**_UNIFORM, "mixout": 0.7},
    },
    {
        "name": "sam",
        "about": "gradients from where the loss is highest nearby: flat minima, at twice the work",
        "source": "Foret et al. 2021 (arXiv 2010.01412), radius .05, around AdamW; Bahri et al. "
        "2022 (arXiv 2110.08529) for language",
        "settings": {**_UNIFORM, "sam_radius": 0.05},
    },
    {
        "name": "lora",
        "about": "low-rank changes of queries and values, and the head; all else frozen",
        "source": "Hu et al. 2022 (arXiv 2106.09685), table 9, RoBERTa-base on SST-2: rank 8, "
        "alpha 8, 5e-4, warm-up .06. The pooler trains, as the dense layer of RoBERTa's head does; "
        "merged at every step, so that what is saved is a plain model",
        "settings": {
            "learning_rate": 5e-4,
            "schedule": "linear",
            "warmup": 0.06,
            "lora_rank": 8,
            "lora_alpha": 8.0,
            "frozen": ["embeddings|final_norm", _NOT_ADAPTED],
        },
    },
)
