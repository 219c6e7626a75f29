"""Studies: tables over seeds, added points, unknown objects, replaced attention."""
