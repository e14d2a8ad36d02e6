-- uses: epoch
return BARRIER
