"""Jobs on a cluster: what is submitted, how its scheduler is asked, and what is done with what jobs leave behind."""
