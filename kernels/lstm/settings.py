"""What a static-dynamic LSTM is made of."""

from dataclasses import dataclass
from typing import Literal, get_args

from kernels.lstm.heads import FLUX_HEADS

Variant = Literal[
    "none",
    "concat",
    "film",
    "gate",
    "attention_input",
    "attention_film",
    "attention_gate",
    "ea_lstm",
]
"""How static features enter: not at all (but see ``initial_state``); beside the inputs; as scale
and shift of the inputs; in the gates; by attention into the inputs (type A), into their scale and
shift (type B) or into the gates (type C); as the input gate."""

Modulation = Literal["additive", "multiplicative"]
"""How type B acts: x + P a, or (1 + G a) x + S a, with a the result of the attention."""


@dataclass(frozen=True)
class LSTMSettings:
    """Sizes and choices of :class:`kernels.lstm.StaticDynamicLSTM`.

    Args:
        dynamic: Dynamic features a step.
        static: Static features; each is one slot of an attention.
        outputs: Predicted values a step.
        variant: How the static features enter the recurrence.
        modulation: Of ``attention_film``.
        hidden: Size of h and c.
        embedding: Size of the embedding of the static features, and of each slot.
        attention: Size of queries and keys.
        layer_norm: Normalize the input's and the recurrent gate sums (Ba et al. 2016).
        normalize_cell: With ``layer_norm``, also the cell state before its tanh.
        input_norm: Batch normalization of the dynamic features over samples and steps.
        longest: Steps of the longest memory, for chrono initialization (the input gate's part of it
            too, where that is not static); with 0 forget biases are 1.
        initial_state: The static features also make the first h and c; otherwise those are zero.
        static_hidden: Width of the static network.
        static_layers: Its hidden layers.
        static_norm: Batch normalization in the static network.
        autoregressive: The output of the step before is an input.
        dropout: Probability that a hidden unit is hidden from the head, one draw a sequence.
        head: ``carbon`` predicts GPP, NPP, NEP and Rh that add up, ``exchange`` GPP, RECO and NEE,
            ``anomaly`` what a forecast of these leaves.
        head_hidden: Width of a hidden layer in the carbon head, which the static features scale and
            shift, or 0 for none.
        site_levels: With the carbon head, the static features also set how large a site's GPP and
            Rh are, and its carbon-use efficiency, see :class:`kernels.lstm.CarbonHead`.

    Raises:
        ValueError: A size, probability or combination is impossible.
    """

    dynamic: int
    static: int
    outputs: int
    variant: Variant = "concat"
    modulation: Modulation = "multiplicative"
    hidden: int = 64
    embedding: int = 16
    attention: int = 16
    layer_norm: bool = False
    normalize_cell: bool = True
    input_norm: bool = False
    longest: int = 0
    initial_state: bool = True
    static_hidden: int = 32
    static_layers: int = 1
    static_norm: bool = False
    autoregressive: bool = False
    dropout: float = 0.0
    head: Literal["linear", "carbon", "exchange", "anomaly"] = "linear"
    head_hidden: int = 0
    site_levels: bool = False

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant: expected one of {get_args(Variant)}, found {self.variant}")
        sizes = ["dynamic", "outputs", "hidden", "embedding", "attention"]
        for name in [*sizes, "static_hidden", "static_layers"]:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.reads_statics and self.static < 1:
            raise ValueError(
                f"variant {self.variant} with initial_state={self.initial_state} needs static "
                f"features, found static={self.static}"
            )
        if self.longest and self.longest <= 2:
            raise ValueError(f"longest: expected 0 or more than 2 steps, found {self.longest}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected 0 <= p < 1, found {self.dropout}")
        if self.head != "linear" and self.outputs != len(FLUX_HEADS[self.head].fluxes):
            named = FLUX_HEADS[self.head].fluxes
            raise ValueError(
                f"the {self.head} head has {len(named)} outputs ({', '.join(named)}), found "
                f"{self.outputs}"
            )
        if self.head_hidden < 0:
            raise ValueError(f"head_hidden: expected 0 or more, found {self.head_hidden}")
        if self.reads_sites and self.head != "carbon":
            raise ValueError(
                "head_hidden and site_levels are the carbon head's, expected 0 and False, found "
                f"{self.head_hidden} and {self.site_levels} with head {self.head}"
            )

    @property
    def attends(self) -> bool:
        """Whether the variant has an attention."""
        return self.variant.startswith("attention")

    @property
    def embeds(self) -> bool:
        """Whether the variant reads one embedding of all static features."""
        return self.variant in ("concat", "film", "gate", "ea_lstm")

    @property
    def reads_statics(self) -> bool:
        """Whether the static features matter at all."""
        return self.variant != "none" or self.initial_state or self.reads_sites

    @property
    def reads_sites(self) -> bool:
        """Whether the static features act in the head."""
        return self.head_hidden > 0 or self.site_levels
