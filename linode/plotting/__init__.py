"""Pictures of trajectories, systems, fits and comparisons. Needs matplotlib: pip install 'linode-torch[plot]'.

Each function draws into the `ax` that it is given, or into a new figure, and returns the axes; save a picture by
`ax.figure.savefig(path)`. A new figure is not one of pyplot's, so that nothing piles up there; to see a picture in a
window, pass axes of `plt.subplots()`. Settings of matplotlib are read, never changed. Names that you give are shown as
they are, without mathematics between dollar signs.
"""

try:
    import matplotlib  # noqa: F401  the parts below need it
except ImportError as error:
    raise ImportError("linode.plotting needs matplotlib: pip install 'linode-torch[plot]'") from error

from .comparison import plot_comparison
from .eigenvalues import plot_eigenvalues
from .fit import plot_fit
from .phase import plot_phase
from .trajectories import plot_trajectories

__all__ = ["plot_comparison", "plot_eigenvalues", "plot_fit", "plot_phase", "plot_trajectories"]
