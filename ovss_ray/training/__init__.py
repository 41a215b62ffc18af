"""How the tiny networks that come with the project are trained, and how the real ones were. Plain loops, no Ray."""
