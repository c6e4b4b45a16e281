// Preloaded into the suite's client: all its requests go over HTTP/2. HTTP_CACHE_SUITE names the checkout.
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const file = path.resolve(process.env.HTTP_CACHE_SUITE, 'node_modules/undici/index.js')
const { default: undici } = await import(pathToFileURL(file).href)
undici.setGlobalDispatcher(new undici.Agent({ allowH2: true }))
