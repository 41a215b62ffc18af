"""Values that stages and services exchange: columns, vocabularies, regions, masks. Ray and torch are not imported."""
