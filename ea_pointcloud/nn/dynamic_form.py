"""Variants of dynamic external attention."""

from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_choice
from ea_pointcloud.nn.norm import initialise_linear
from ea_pointcloud.ops import SlotState

DYNAMIC_FORMS = ("plain", "skip", "gate", "project", "norm")


class DynamicForm(nn.Module):
    """Variants of dynamic external attention, whose plain form returns ``A (V + G)``.

    X are the queries, A the weights of the slots, V the value memory, and G what each slot gathers
    from the cloud. None is published; they are there to be compared.

    - ``"skip"`` adds ``relu(X)``, a path around the memories;
    - ``"gate"`` multiplies by ``sigmoid(X W + b)``, which starts near one half;
    - ``"project"`` gathers ``X W`` instead of X, W starting as the identity;
    - ``"norm"`` applies layer normalisation to G.

    Args:
        form: one of these or several joined by ``+``, such as ``"skip+norm"``.
        channels: width of the queries.

    Shape:
        queries, attended: (..., C) -> (..., C).
    """

    def __init__(self, form: str, channels: int) -> None:
        super().__init__()
        check_form(form, dynamic=True)
        names = form.split("+")
        self.skip = "skip" in names
        self.gate = nn.Linear(channels, channels) if "gate" in names else None
        self.project = nn.Linear(channels, channels, bias=False) if "project" in names else None
        self.norm = nn.LayerNorm(channels) if "norm" in names else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise.

        ===================== ==================================================
        tensor                distribution
        ===================== ==================================================
        gate weight           normal, variance 2 / C; bias 0
        project weight        identity
        norm                  weight 1, bias 0
        ===================== ==================================================
        """
        if self.gate is not None:
            initialise_linear(self.gate)
        if self.project is not None:
            nn.init.eye_(self.project.weight)
        if self.norm is not None:
            self.norm.reset_parameters()

    def changed(self, state: SlotState) -> SlotState:
        """The state with its content projected and normalised."""
        content = state.content
        assert content is not None
        # A projection of X commutes with the weighted mean: M rows instead of N.
        content = content if self.project is None else self.project(content)
        return SlotState(state.lse, content if self.norm is None else self.norm(content))

    def forward(self, queries: Tensor, attended: Tensor) -> Tensor:
        """Gate, then skip."""
        if self.gate is not None:
            attended = attended * self.gate(queries).sigmoid()
        return attended + F.relu(queries) if self.skip else attended


def check_form(form: str, *, dynamic: bool) -> None:
    """Raise unless ``form`` is known, and plain where the attention is not dynamic."""
    for name in form.split("+"):
        check_choice("dynamic_form", name, DYNAMIC_FORMS)
    if not dynamic and form != "plain":
        raise ValueError(f"dynamic_form must be 'plain' without dynamic attention, got {form!r}")
