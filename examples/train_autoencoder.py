"""Learn the linear dynamics behind nonlinear observations: an autoencoder whose latent state obeys z' = Xi z.

A damped oscillator is seen through 20 noisy channels, each trajectory at irregular times of its own. The encoder sees
the first sample only; Xi stays stable. The last line is the error on new trajectories, twice as long as in training.
"""

import sys

import torch

import linode
from linode.nn import LinearDynamics
from linode.plotting import plot_trajectories

torch.manual_seed(0)
true_Xi = torch.tensor([[-0.2, 1.5], [-1.5, -0.2]])  # eigenvalues -0.2 +- 1.5i
gain, offset = torch.randn(2, 20), torch.randn(20)  # a state z is seen as tanh(z gain + offset)


def record(n_trajectories: int, duration: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Times (N, 30) from 0, noisy and exact observations (N, 30, 20)."""
    t = duration * torch.rand(n_trajectories, 30).sort().values
    t[:, 0] = 0.0
    x = torch.tanh(linode.LinearODE(true_Xi, torch.randn(n_trajectories, 2))(t) @ gain + offset)
    return t, x + 0.01 * torch.randn_like(x), x


def layers(n_in: int, n_out: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(n_in, 64), torch.nn.Tanh(), torch.nn.Linear(64, n_out))


class Autoencoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.dynamics, self.decoder = layers(20, 2), LinearDynamics(2, "stable"), layers(2, 20)

    def forward(self, first: torch.Tensor, t: torch.Tensor) -> torch.Tensor:  # (N, 20), (N, T) -> (N, T, 20)
        return self.decoder(self.dynamics(self.encoder(first), t))


t, x, _ = record(500, duration=6.0)
model = Autoencoder()
optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 700)
for _ in range(700):
    optimiser.zero_grad()
    some = torch.randint(500, (50,))
    (model(x[some, 0], t[some]) - x[some]).square().mean().backward()
    optimiser.step()
    schedule.step()

t_new, x_new, exact = record(200, duration=12.0)
with torch.no_grad():
    error, mean = ((y - exact).square().mean().sqrt() for y in (model(x_new[:, 0], t_new), x.mean((0, 1))))
    print("learned eigenvalues:", ", ".join(f"{x:.3f}" for x in torch.linalg.eigvals(model.dynamics.Xi).tolist()))
    curves = model(x_new[:1, 0], fine := torch.linspace(0.0, 12.0, 300))[0, :, :3]
ax = plot_trajectories(fine, curves, labels=[f"channel {i}, predicted" for i in range(3)], ylabel="observation")
ax.plot(t_new[0], x_new[0, :, :3], ".", color="0.4")  # dots: what was seen
ax.figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "train_autoencoder.png", dpi=150)
print(f"held-out RMSE {error:.4f}; by predicting the mean {mean:.4f}; relative error {error / mean:.4f}")
