"""Pictures of trajectories, systems, fits and comparisons. Needs matplotlib: pip install matplotlib.

Each function draws into the axes `ax` and returns them. Without `ax` it draws into pyplot's current axes if these are
empty, else into a new figure of pyplot's: `plt.show()` shows it, `plt.savefig(path)` saves it, a notebook displays it.
In a loop that draws many, close each by `plt.close()`, or pass a `matplotlib.figure.Figure()`, which pyplot does not
keep. Settings of matplotlib are read, never changed. Labels are shown as they are, without mathematics between dollar
signs; states without names are z1, z2, ... and channels y1, y2, ..., as in tables. Objects are known by their
attributes: nothing of linode is imported but its errors and these names.
"""

try:
    import matplotlib  # noqa: F401  the modules below need it
except ImportError as error:
    raise ImportError("linode.plotting needs matplotlib: pip install matplotlib") from error

from .comparison import plot_comparison
from .eigenvalues import plot_eigenvalues
from .fit import plot_fit
from .phase import plot_phase
from .trajectories import plot_trajectories

__all__ = ["plot_comparison", "plot_eigenvalues", "plot_fit", "plot_phase", "plot_trajectories"]
