"""What is durable of members: files, ledgers, and who may write them."""
