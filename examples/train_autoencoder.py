"""Learn the linear dynamics behind nonlinear observations: an autoencoder whose latent state obeys z' = Xi z.

A damped oscillator is seen through 20 nonlinear, noisy channels at irregular times, other ones for every trajectory.
The encoder sees the first sample only; Xi is stable whatever the optimiser does. The last line is the error on new
trajectories that are twice as long as those of the training.
"""

import torch
from torch import nn

import linode
from linode.nn import LinearDynamics

torch.manual_seed(0)
torch.set_num_threads(1)  # the networks are small
true_Xi = torch.tensor([[-0.2, 1.5], [-1.5, -0.2]])  # eigenvalues -0.2 +- 1.5i
gain, offset = torch.randn(2, 20), torch.randn(20)  # a state z is seen as tanh(z gain + offset)


def record(n_trajectories: int, duration: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Times (N, 30) from 0, noisy and exact observations (N, 30, 20)."""
    t = duration * torch.rand(n_trajectories, 30).sort().values
    t[:, 0] = 0.0
    x = torch.tanh(linode.LinearODE(true_Xi, torch.randn(n_trajectories, 2))(t) @ gain + offset)
    return t, x + 0.01 * torch.randn_like(x), x


class Autoencoder(nn.Module):
    """Observations (N, T, 20) from the first of them (N, 20) and the times (N, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 2))
        self.dynamics = LinearDynamics(2, "stable")
        self.decoder = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 20))

    def forward(self, first: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.dynamics(self.encoder(first), t))


t, x, _ = record(500, duration=6.0)
model = Autoencoder()
n_steps = 700
optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
for _ in range(n_steps):
    some = torch.randint(500, (50,))
    optimiser.zero_grad()
    (model(x[some, 0], t[some]) - x[some]).square().mean().backward()
    optimiser.step()
    schedule.step()

t_new, x_new, exact = record(200, duration=12.0)
with torch.no_grad():
    error = (model(x_new[:, 0], t_new) - exact).square().mean().sqrt()
    mean = (x.mean((0, 1)) - exact).square().mean().sqrt()
    for name, Xi in (("true", true_Xi), ("learned", model.dynamics.Xi)):
        print(f"{name} eigenvalues:", ", ".join(f"{value:.3f}" for value in torch.linalg.eigvals(Xi).tolist()))
print(f"held-out RMSE {error:.4f}; by predicting the mean {mean:.4f}; relative error {error / mean:.4f}")
