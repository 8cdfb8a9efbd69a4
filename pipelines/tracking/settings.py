"""Where metrics go, as a configuration says it; imports no sink."""

from typing import Annotated

from pydantic import AfterValidator

from pipelines.config import Config

#: What W&B refuses in the name of a project, or takes for something else, and how long it may be.
_REFUSED, _LONGEST = "/\\#?%:", 128


def project_name(text: str) -> str:
    """A name that Weights & Biases takes for a project.

    Raises:
        ValueError: It is empty, too long, or has a character that W&B refuses.
    """
    wrong = sorted(set(text) & set(_REFUSED))
    if wrong or not text.strip() or len(text) > _LONGEST:
        raise ValueError(
            f"expected the name of a W&B project: 1 to {_LONGEST} characters, none of "
            f"{' '.join(_REFUSED)} (the entity is set by WANDB_ENTITY); found {text!r}"
        )
    return text


class TrackingConfig(Config):
    """Where metrics go besides ``metrics.jsonl``.

    Attributes:
        wandb: Write them for Weights & Biases; ``yaoki sync`` sends them.
        online: Send them while members run: these need a login and a network.
        tensorboard: Write TensorBoard events.
        project: Project at Weights & Biases.
    """

    wandb: bool = False
    online: bool = False
    tensorboard: bool = False
    project: Annotated[str, AfterValidator(project_name)] = "yaoki"
