-- uses: epoch
return {}
