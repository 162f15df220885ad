"""Looking without buying: what a student cannot draw, found out by writer, student and judge alone."""
