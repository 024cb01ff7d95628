"""What a trajectory and its gradients cost with linode and with its peers: `python -m benchmarks`."""
