"""Publishers: one protocol (`base`), one implementation a module, one contract suite over all of them."""
