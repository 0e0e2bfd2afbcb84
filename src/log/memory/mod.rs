//! The log in process: the same semantics, deterministic. Ground of `demo`, `test`, `replay` and the simulation.
