"""True-size denoisers of random weights in our loop on a GPU; tiny ones where there is none."""
