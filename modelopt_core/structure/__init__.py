"""What a network is made of: traced graph, coupled channels, layers and what reaches them."""
