//! Zips made byte by byte, because no honest tool writes what must be refused.

/// One entry; what is not said is what an honest tool would write.
#[derive(Clone, Debug, Default)]
pub struct Item {
    pub name: Vec<u8>,
    pub content: Vec<u8>,
    pub flags: u16,
    pub method: u16,
    pub attributes: u32,
    /// Only in the directory.
    pub extra: Vec<u8>,
    pub local_extra: Vec<u8>,
    pub local_name: Option<Vec<u8>>,
    pub local_method: Option<u16>,
    pub local_crc32: Option<u32>,
    pub local_size: Option<u32>,
    pub crc32: Option<u32>,
    pub size: Option<u32>,
    pub header_at: Option<u32>,
    /// Between this entry and the next.
    pub gap: Vec<u8>,
}

pub fn item(name: &str, content: &str) -> Item {
    let flags = if name.is_ascii() { 0 } else { 1 << 11 };
    Item { name: name.into(), content: content.into(), flags, ..Item::default() }
}

#[derive(Clone, Debug, Default)]
pub struct Zip {
    pub items: Vec<Item>,
    pub comment: Vec<u8>,
    pub entries: Option<u16>,
    pub disk: u16,
    /// With the zip64 records at the end, and the plain ones saturated.
    pub zip64: bool,
    pub directory_at: Option<u32>,
    /// Behind the entries of the directory, and counted to it.
    pub directory_rest: Vec<u8>,
}

pub fn zip(items: impl IntoIterator<Item = Item>) -> Zip {
    Zip { items: items.into_iter().collect(), ..Zip::default() }
}

fn put16(bytes: &mut Vec<u8>, numbers: &[usize]) {
    numbers.iter().for_each(|number| bytes.extend_from_slice(&(*number as u16).to_le_bytes()));
}

fn put32(bytes: &mut Vec<u8>, numbers: &[u32]) {
    numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
}

fn put64(bytes: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
}

pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// An entry's own header and its content.
pub fn local(item: &Item) -> Vec<u8> {
    let name = item.local_name.as_ref().unwrap_or(&item.name);
    let size = item.content.len() as u32;
    let mut bytes = b"PK\x03\x04".to_vec();
    put16(&mut bytes, &[20, item.flags.into(), item.local_method.unwrap_or(item.method).into(), 0, 0x21]);
    let crc32 = item.local_crc32.or(item.crc32).unwrap_or_else(|| crc32(&item.content));
    put32(&mut bytes, &[crc32, size, item.local_size.or(item.size).unwrap_or(size)]);
    put16(&mut bytes, &[name.len(), item.local_extra.len()]);
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(&item.local_extra);
    bytes.extend_from_slice(&item.content);
    bytes
}

fn central(item: &Item, header_at: usize) -> Vec<u8> {
    let size = item.content.len() as u32;
    let mut bytes = b"PK\x01\x02".to_vec();
    put16(&mut bytes, &[0x031e, 20, item.flags.into(), item.method.into(), 0, 0x21]);
    put32(&mut bytes, &[item.crc32.unwrap_or_else(|| crc32(&item.content)), size, item.size.unwrap_or(size)]);
    put16(&mut bytes, &[item.name.len(), item.extra.len(), 0, 0, 0]);
    put32(&mut bytes, &[item.attributes, item.header_at.unwrap_or(header_at as u32)]);
    bytes.extend_from_slice(&item.name);
    bytes.extend_from_slice(&item.extra);
    bytes
}

impl Zip {
    pub fn bytes(&self) -> Vec<u8> {
        let (mut bytes, mut directory) = (Vec::new(), Vec::new());
        for item in &self.items {
            directory.extend(central(item, bytes.len()));
            // An entry that points elsewhere has no header of its own.
            if item.header_at.is_none() {
                bytes.extend(local(item));
            }
            bytes.extend_from_slice(&item.gap);
        }
        directory.extend_from_slice(&self.directory_rest);
        let (at, count) = (bytes.len(), self.entries.map_or(self.items.len(), usize::from));
        let size = directory.len();
        bytes.extend(directory);
        if self.zip64 {
            let record_at = bytes.len() as u64;
            bytes.extend_from_slice(b"PK\x06\x06");
            put64(&mut bytes, &[44]);
            put16(&mut bytes, &[45, 45]);
            put32(&mut bytes, &[0, 0]);
            put64(&mut bytes, &[count as u64, count as u64, size as u64, at as u64]);
            bytes.extend_from_slice(b"PK\x06\x07");
            put32(&mut bytes, &[0]);
            put64(&mut bytes, &[record_at]);
            put32(&mut bytes, &[1]);
        }
        bytes.extend_from_slice(b"PK\x05\x06");
        let count = if self.zip64 { 0xffff } else { count };
        put16(&mut bytes, &[self.disk.into(), self.disk.into(), count, count]);
        let (size, at) = if self.zip64 { (u32::MAX, u32::MAX) } else { (size as u32, at as u32) };
        put32(&mut bytes, &[size, self.directory_at.unwrap_or(at)]);
        put16(&mut bytes, &[self.comment.len()]);
        bytes.extend_from_slice(&self.comment);
        bytes
    }
}
