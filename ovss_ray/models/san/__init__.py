"""SAN, the side adapter network (Xu et al., 2023)."""
