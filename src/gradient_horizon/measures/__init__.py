"""Measures of a step along its trajectory: Jacobian norms, singular values, Lyapunov exponents and horizons."""
