"""From a step and its trajectory to numbers: Jacobian norms, singular values, Lyapunov exponents, horizons."""
