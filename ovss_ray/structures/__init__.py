"""Values that stages and services exchange: columns, vocabularies, regions, masks. No disk, Ray or torch."""
