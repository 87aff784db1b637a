"""A finished study for people: tables, pictures and pages."""
