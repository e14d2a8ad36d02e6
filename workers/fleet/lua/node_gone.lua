-- uses: epoch, node
-- ARGV: node.
forget_node(ARGV[1])
return 1
