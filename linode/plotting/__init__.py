"""Pictures of trajectories, systems, fits and comparisons. Needs matplotlib: pip install 'linode-torch[plot]'.

Each function draws into the axes `ax`, or into a new figure, and returns the axes; save a picture by
`ax.figure.savefig(path)`. pyplot does not know a new figure, so that none has to be closed; to see a picture in a
window, pass axes of `plt.subplots()`. Settings of matplotlib are read, never changed. Labels are shown as they are,
without mathematics between dollar signs. Objects are known by their attributes: nothing of linode is imported but its
errors.
"""

try:
    import matplotlib  # noqa: F401  the modules below need it
except ImportError as error:
    raise ImportError("linode.plotting needs matplotlib: pip install 'linode-torch[plot]'") from error

from .comparison import plot_comparison
from .eigenvalues import plot_eigenvalues
from .fit import plot_fit
from .phase import plot_phase
from .trajectories import plot_trajectories

__all__ = ["plot_comparison", "plot_eigenvalues", "plot_fit", "plot_phase", "plot_trajectories"]
