"""From segments to mixtures: the plan, what is drawn, how it is applied."""
